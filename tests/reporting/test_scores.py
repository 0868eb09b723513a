"""Names that tell a measure and a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vaex.callbacks.measures import IMAGE_KEYS
from vaex.metrics.evidence import PIXEL_KEYS
from vaex.reporting.groups import scores_measured
from vaex.reporting.results import read_result
from vaex.reporting.scores import MEASURES, scored_measure


def test_names_of_scores_are_told_from_measures() -> None:
    for measure in MEASURES:
        assert scored_measure(measure) is None
        assert scored_measure(f"{measure}_padim") == (measure, "padim")
    assert scored_measure("loss") is None
    assert scored_measure("aupro_padim_2") == ("aupro", "padim_2")


def test_every_measure_of_a_score_is_known() -> None:
    assert set(MEASURES) == {*PIXEL_KEYS, *IMAGE_KEYS, "aupimo"}


def test_scores_that_never_were_are_left_out(write: Callable[..., Path]) -> None:
    """What the plain names once took for a score: the front of a label that ends in the name of the deciding one."""
    config: dict[str, Any] = {
        "score": {"name": "attention"},
        "metrics": {"scores": [{"name": "attention", "label": "untrained_attention"}, "kl", "kl_2"]},
    }
    real = {"aupro_attention": 0.9, "aupro": 0.9, "aupro_untrained_attention": 0.4, "aupro_kl": 0.4}
    real |= {"best_iou_untrained_attention": math.nan}
    phantoms = {"aupro_untrained": 0.4, "best_iou_untrained": math.nan}
    found = read_result(write("run", {"test": {**real, **phantoms}}), config)
    assert set(found.measures["test"]) == set(real)
    assert scores_measured([found], "test") == ["attention", "kl", "untrained_attention"]
    listed = {**config, "metrics": {"scores": [*config["metrics"]["scores"], "untrained"]}}  # then it was measured
    assert set(read_result(write("listed", {"test": {**real, **phantoms}}), listed).measures["test"]) == {
        *real,
        *phantoms,
    }
