"""What calibration keeps of held-out normal images: scores and quantiles of maps, for what the model can give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exporting.test_feature_networks import fitted as feature_network
from vaex import detectors
from vaex.build import build_model
from vaex.detectors import check_stated, fit_detectors, held_scores, merged_into, score_normal, scored_again
from vaex.errors import VaexError
from vaex.explanation import explain
from vaex.networks import VAE
from vaex.scores import Score, score_named
from vaex.scores.thresholds import PIXEL_RATES, normal_scores_of, normal_state

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
    state = score_normal(model, [score], images(7).split(sizes), {}, "conv2", **options)
    found = normal_scores_of(state, score_named(score), "conv2", options)
    expected = explain(model, images(7), "conv2", score=score, **options)
    torch.testing.assert_close(found.scores, expected.score, rtol=1e-4, atol=1e-6)
    assert found.pixels.shape == (7, len(PIXEL_RATES))
    torch.testing.assert_close(found.pixels[:, 0], expected.score_map.flatten(1).amax(1), rtol=1e-4, atol=1e-6)


def test_no_more_than_so_many(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "MOST_SCORED", 5)
    state = score_normal(model, ["reconstruction"], iter(images(9).split(3)))
    assert len(state["normal_scores"]["reconstruction"]) == 5


@pytest.mark.parametrize("score", ["feature_error", "feature_distance", "deviation"])
def test_nothing_is_kept_of_what_the_model_cannot_give(model: VAE, score: str) -> None:
    assert score_normal(model, [score], images(4).split(2), {}) == {}


def test_nothing_is_kept_of_no_images_or_no_numbers(model: VAE) -> None:
    assert score_normal(model, ["reconstruction"], []) == {}
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.fill_(torch.nan)
    assert score_normal(model, ["reconstruction"], images(4).split(2)) == {}


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


def test_many_scores_in_one_pass_are_those_of_each_alone() -> None:
    network = feature_network("feature_vae")
    normal = torch.rand(11, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    base: dict[str, Any] = {"name": "padim", "rank": 4}
    mean = {"name": "mean_map", "of": base}
    scores: list[Any] = [mean, "feature_error", {"name": "attention", "sigma": 1.0, "pool": "max"}, "reconstruction"]
    found = {"detectors": fit_detectors(network, scores, normal.split(6), normal.split(6))}
    together = score_normal(network, scores, normal.split(4), found)
    assert set(together["normal_scores"]) == {"mean_map", "padim", "feature_error", "attention"}  # what it can give
    network.calibration = found
    for score in map(score_named, [*scores[:3], base]):
        expected = explain(network, normal, score=score)
        alone = normal_scores_of(together, score)
        torch.testing.assert_close(alone.scores, expected.score, rtol=1e-4, atol=1e-5)
        highest = expected.score_map.flatten(1).amax(1)
        torch.testing.assert_close(alone.pixels[:, 0], highest, rtol=1e-4, atol=1e-5)


def test_one_score_without_finite_numbers_does_not_cost_the_others(model: VAE) -> None:
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.fill_(torch.nan)
    state = score_normal(model, ["reconstruction", "kl"], images(4).split(2))
    assert set(state["normal_scores"]) == set(state["normal_pixels"]) == set(state["normal_options"]) == {"kl"}


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
