"""Fitting detectors, and what an earlier calibration holds of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exporting.test_feature_networks import fitted as feature_network
from vaex import detectors
from vaex.build import build_model
from vaex.detectors import check_stated, fit_detectors, held_scores, merged_into, scored_again
from vaex.errors import VaexError
from vaex.explanation import explain
from vaex.networks import VAE
from vaex.scores import Score, score_named
from vaex.scores.thresholds import normal_state

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK).eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        ("padim", "padim looks at image features, which this model has not"),
        ("feature_residual", "feature_residual looks at image features"),
        ({"name": "mean_map", "of": "patchcore"}, "patchcore looks at image features"),
        ({"name": "combination", "of": ["kl_maps", "padim"]}, "Unknown score 'kl_maps'"),
        ({"name": "combination", "of": ["reconstruction", "padim"]}, "padim looks at image features"),
        ("synthetic_metric", "synthetic_metric reads a latent grid"),
    ],
)
def test_what_the_model_does_not_state_is_told(model: VAE, score: Any, sentence: str) -> None:
    with pytest.raises(VaexError, match=sentence):
        check_stated(model, score, images(1), {})


@pytest.mark.parametrize(
    "score", ["attention", "kl", "deviation", "combination", {"name": "mean_map", "of": "reconstruction"}]
)
def test_what_is_fitted_later_is_not_missed(model: VAE, score: Any) -> None:
    check_stated(model, score, images(1), {})


# --- what an earlier calibration holds of other scores


def holding(*scores: Any) -> dict[str, Any]:
    """A calibration of given scores; the first value tells whose it is."""
    calibration: dict[str, Any] = {"detectors": {}, "count": 9}
    for number, score in enumerate(map(score_named, scores)):
        for key, state in normal_state(score, torch.full((3,), float(number)), torch.zeros(3, 6)).items():
            calibration.setdefault(key, {}).update(state)
        if score.fitter() is not None:
            options = {"name": score.name, **score.options_of_fit()}
            calibration["detectors"][score.known_as] = {"number": number, "options": options}
    return calibration


def again(held: dict[str, Any], *scores: Any) -> set[str]:
    return {score.known_as for score in scored_again(held, [score_named(score) for score in scores])}


def test_held_scores_are_those_that_were_given() -> None:
    given: list[Any] = [
        {"name": "padim", "rank": 4, "sigma": 1.0},
        {"name": "attention", "label": "mine", "maps": {"target": "kl"}, "pool": "max"},
        {"name": "combination", "of": ["padim", {"name": "reconstruction", "sigma": 2.0}]},
        "kl",
    ]
    expected: list[Score] = [score_named(score) for score in given]
    found = {score.known_as: score for score in held_scores(holding(*given))}
    assert found == {score.known_as: score for score in expected}
    old = {
        "detectors": {"mine": {"options": {"name": "padim", "rank": 4}}, "none": {}, "gone": {"options": {"name": "x"}}}
    }
    assert held_scores(old) == [score_named({"name": "padim", "rank": 4, "label": "mine"})]


def test_scores_of_maps_and_codes_follow_a_calibration_and_others_stay() -> None:
    own = {"name": "attention", "label": "own", "maps": {"target": "kl"}}
    codes = {"name": "attention", "label": "codes", "maps": {"target": "normal_difference"}}
    held = holding("reconstruction", "padim", "attention", "deviation", "mahalanobis", own, codes)
    assert again(held, "patchcore") == {"attention", "deviation", "mahalanobis", "codes"}
    assert again(held, "patchcore", {"name": "attention", "sigma": 1.0}) == {"deviation", "mahalanobis", "codes"}
    mean = {"name": "mean_map", "of": "attention"}
    assert again(holding("patchcore", mean), "reconstruction") == {"mean_map"}
    assert again({}, "attention") == set()


def test_what_is_made_of_a_score_follows_it_while_its_options_are_the_same() -> None:
    both = {"name": "combination", "of": ["padim", "patchcore"]}
    chain = {"name": "combination", "label": "other", "of": ["patchcore", "feature_error"]}
    held = holding("padim", "patchcore", both, chain, {"name": "mean_map", "of": "feature_error"})
    assert again(held, "padim") == {"combination", "other"}  # patchcore is fitted with the first
    assert again(held, {"name": "padim", "sigma": 3.0, "rank": 7}) == set()
    assert again(held, {"name": "feature_error", "sigma": 1.0}) == set()  # nothing of it is fitted


def test_a_calibration_replaces_the_entries_of_its_own_scores_alone() -> None:
    held = holding("padim", "patchcore", "reconstruction")
    combined = score_named({"name": "combination", "of": ["padim", "attention"]})
    new = holding("feature_error", combined)
    merged = merged_into(held, new, [score_named("feature_error"), combined])
    first = {name: scores[0].item() for name, scores in merged["normal_scores"].items()}
    assert first == {"patchcore": 1, "reconstruction": 2, "feature_error": 0, "combination": 1}  # padim is fitted anew
    assert {name: state["number"] for name, state in merged["detectors"].items()} == {"patchcore": 1, "combination": 1}
    assert merged_into({}, {"count": 1}, []) == {"count": 1, **{key: {} for key in detectors.PER_SCORE}}
