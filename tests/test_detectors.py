"""What calibration keeps of held-out normal images: scores and quantiles of maps, for what the model can give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exporting.test_feature_networks import fitted as feature_network
from vaex import detectors
from vaex.build import build_model
from vaex.detectors import fit_detectors, score_normal
from vaex.explanation import explain
from vaex.networks import VAE
from vaex.scores import score_named
from vaex.scores.thresholds import PIXEL_RATES, normal_scores_of

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK).eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("score", ["attention", "reconstruction", "kl"])
@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1, 5, 1)])
def test_scores_of_all_batches(model: VAE, score: str, sizes: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"target": "kl", "chunk": None}
    state = score_normal(model, score, images(7).split(sizes), {}, "conv2", **options)
    found = normal_scores_of(state, score_named(score), "conv2", options)
    expected = explain(model, images(7), "conv2", score=score, **options)
    torch.testing.assert_close(found.scores, expected.score, rtol=1e-4, atol=1e-6)
    assert found.pixels.shape == (7, len(PIXEL_RATES))
    torch.testing.assert_close(found.pixels[:, 0], expected.score_map.flatten(1).amax(1), rtol=1e-4, atol=1e-6)


def test_no_more_than_so_many(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "MOST_SCORED", 5)
    state = score_normal(model, "reconstruction", iter(images(9).split(3)))
    assert len(state["normal_scores"]["reconstruction"]) == 5


@pytest.mark.parametrize("score", ["feature_error", "feature_distance", "deviation"])
def test_nothing_is_kept_of_what_the_model_cannot_give(model: VAE, score: str) -> None:
    assert score_normal(model, score, images(4).split(2), {}) == {}


def test_nothing_is_kept_of_no_images_or_no_numbers(model: VAE) -> None:
    assert score_normal(model, "reconstruction", []) == {}
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.fill_(torch.nan)
    assert score_normal(model, "reconstruction", images(4).split(2)) == {}


def test_what_a_score_is_made_of_is_fitted_with_it(model: VAE) -> None:
    assert set(fit_detectors(model, [{"name": "mean_map", "of": "reconstruction"}], [images(4)])) == {"mean_map"}
    network = feature_network("feature_vae")
    normal = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    base: dict[str, Any] = {"name": "padim", "rank": 4}
    mean = {"name": "mean_map", "of": base}
    found = fit_detectors(network, [mean], normal.split(6))
    assert set(found) == {"mean_map", "padim"}
    assert found["padim"]["options"]["rank"] == 4
    network.calibration = {"detectors": found}
    average, each = (explain(network, normal, score=score).score_map for score in (mean, base))
    torch.testing.assert_close(average[0], each.mean(0), rtol=1e-4, atol=1e-4)
