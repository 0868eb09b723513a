"""The flat names of metrics.json: the plain ones are those of the deciding score, and of no other."""

from __future__ import annotations

import itertools

import pytest

from vaex.commands.record import flat_metrics

LABELS = ("attention", "untrained_attention", "attention_mean_map", "explain_kl", "kl", "mean_map", "untrained")
KEYS = ("pixel_auroc", "aupro", "best_iou", "image_auroc")


@pytest.mark.parametrize("score", LABELS)
def test_plain_names_are_those_of_the_deciding_score(score: str) -> None:
    """Every measure of every label is a number of its own, so that a mix-up cannot hide."""
    numbers = {(key, label): n / 100 for n, (key, label) in enumerate(itertools.product(KEYS, LABELS))}
    logged = {f"localization/test/{key}_{label}": value for (key, label), value in numbers.items()}
    logged |= {f"localization/test/pixel_auroc_{score}/cut": 0.7, "test/loss": 3.0, f"latents/test/kl_{score}": 2.0}
    logged |= {"val/loss": 4.0, f"localization/val/pixel_auroc_{score}": 0.8}
    expected = {f"{key}_{label}": value for (key, label), value in numbers.items()}
    expected |= {key: numbers[key, score] for key in KEYS}
    expected |= {f"pixel_auroc_{score}/cut": 0.7, "loss": 3.0, f"kl_{score}": 2.0}
    assert flat_metrics("test", logged, score) == expected


def test_a_name_that_was_logged_is_not_overwritten() -> None:
    logged = {"localization/test/pixel_auroc": 0.1, "localization/test/pixel_auroc_kl": 0.2}
    assert flat_metrics("test", logged, "kl") == {"pixel_auroc": 0.1, "pixel_auroc_kl": 0.2}
    assert flat_metrics("test", logged) == flat_metrics("test", logged, "attention")
