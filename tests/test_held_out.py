"""What is seen of held-out normal images, and what is kept of them: scores and quantiles of maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.exporting.test_feature_networks import fitted as feature_network
from tests.test_detectors import NETWORK, images
from vaex import explanation, held_out
from vaex.build import build_model
from vaex.detectors import fit_detectors
from vaex.explanation import explain
from vaex.held_out import HeldOut, score_normal
from vaex.networks import VAE
from vaex.scores import score_named
from vaex.scores.thresholds import PIXEL_RATES, NormalScores, normal_scores_of


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK).eval()


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


def test_of_tiles_the_highest_of_each_image_is_kept(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_SCORED", 2)  # of images, not of tiles
    whose = torch.tensor([4, 1, 4, 1, 1, 9, 4])
    state = score_normal(model, ["reconstruction"], images(7).split(3), {}, image_of=whose)
    found = normal_scores_of(state, score_named("reconstruction"))
    alone = normal_scores_of(
        score_normal(model, ["reconstruction"], images(7).split(3), {}, image_of=torch.arange(7)),
        score_named("reconstruction"),
    )
    groups = ([1, 3, 4], [0, 2, 6], [5])
    assert found.scores.tolist() == [max(float(alone.scores[row]) for row in rows) for rows in groups]
    for share in range(len(PIXEL_RATES)):
        highest = [max(float(alone.pixels[row, share]) for row in rows) for rows in groups]
        assert found.pixels[:, share].tolist() == highest


def test_no_more_than_so_many(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_SCORED", 5)
    state = score_normal(model, ["reconstruction"], iter(images(9).split(3)))
    assert len(state["normal_scores"]["reconstruction"]) == 5


@pytest.mark.parametrize("score", ["feature_error", "feature_distance", "deviation"])
def test_nothing_is_kept_of_what_the_model_cannot_give(model: VAE, score: str) -> None:
    assert score_normal(model, [score], images(4).split(2), {}) == {}


@pytest.mark.parametrize("kept", [2, 3, 4])
def test_an_iterator_is_scored_to_its_end(model: VAE, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_KEPT", kept)
    found, expected = (
        score_normal(model, ["reconstruction"], batches, {})["normal_scores"]["reconstruction"]
        for batches in (iter(images(10).split(3)), images(10).split(3))
    )
    assert len(found) == 10
    assert torch.equal(found, expected)


def test_nothing_is_kept_of_no_images_or_no_numbers(model: VAE) -> None:
    assert score_normal(model, ["reconstruction"], []) == {}
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.fill_(torch.nan)
    assert score_normal(model, ["reconstruction"], images(4).split(2)) == {}


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


SCORES: list[Any] = [
    {"name": "feature_distance", "rank": 4},
    {"name": "combination", "of": [{"name": "feature_distance", "rank": 4}, {"name": "attention", "pool": "max"}]},
    {"name": "mean_map", "of": "attention"},
]


@pytest.mark.parametrize("kept", [64, 5, 3])
@pytest.mark.parametrize("sizes", [(4, 3), (7,), (2, 2, 2, 1)])
def test_one_look_says_what_two_looks_say(kept: int, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_KEPT", kept)
    network = feature_network("feature_vae")
    normal = torch.rand(15, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    train, others = normal[:8].split(4), normal[8:].split(sizes)
    looked: list[int] = []
    inside = explanation._said  # the model's one run on a batch

    def counted(model: Any, pixels: Tensor) -> Any:
        looked.append(len(pixels))
        return inside(model, pixels)

    monkeypatch.setattr(explanation, "_said", counted)
    apart = {"detectors": fit_detectors(network, SCORES, train, others, {}, "encoder.conv2")}
    apart |= score_normal(network, SCORES, others, apart, "encoder.conv2")
    before, looked[:] = sum(looked), []
    seen = HeldOut(network, others, "encoder.conv2")
    together: dict[str, Any] = {"detectors": fit_detectors(network, SCORES, train, seen, {}, "encoder.conv2")}
    together |= score_normal(network, SCORES, seen, together)
    if kept == 64:
        assert (before, sum(looked)) == (2 * 8 + 3 * 7, 2 * 8 + 2 * 7)  # with the copies that have defects
    for name, state in apart["detectors"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(together["detectors"][name][key], value)
    for name in ("feature_distance", "combination", "attention", "mean_map"):
        found, expected = (of_score(part, name) for part in (together, apart))
        assert found.scores.shape == (7,)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(found.pixels, expected.pixels)


def of_score(calibration: dict[str, Any], name: str) -> NormalScores:
    return normal_scores_of(calibration, score_named(calibration["normal_options"][name]), "encoder.conv2", {})


def test_nothing_is_looked_at_before_it_is_read(model: VAE) -> None:
    class Unread(list[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            raise AssertionError("the images were read")

    seen = HeldOut(model, Unread()).first(maps=True)
    with pytest.raises(AssertionError, match="were read"):
        len(seen)
    assert fit_detectors(model, [{"name": "mean_map", "of": "reconstruction"}], [images(4)], Unread())


def test_scores_are_asked_again_after_they_were_fitted_anew(model: VAE) -> None:
    seen = HeldOut(model, [images(3)])
    (part,) = seen.first(maps=False)
    first = score_named("reconstruction")(part)
    assert score_named("reconstruction")(next(iter(seen.every(maps=False, most=9)))) is first
    seen.forget()
    assert score_named("reconstruction")(next(iter(seen.every(maps=False, most=9)))) is not first


def test_what_is_scored_for_thresholds_is_not_kept(model: VAE) -> None:
    seen = HeldOut(model, [images(3)])
    (part,) = seen.first(maps=False)
    first = score_named("reconstruction")(part)
    assert set(score_normal(model, ["reconstruction", "kl"], seen)["normal_scores"]) == {"reconstruction", "kl"}
    (part,) = seen.first(maps=False)
    assert part.known is not None
    assert [id(said) for said in part.known.values()] == [id(first)]


@pytest.mark.parametrize("most", [0, 1, 4, 6, 7, 8, 20])
@pytest.mark.parametrize("kept", [2, 4, 64])
def test_every_image_once_up_to_a_number(model: VAE, most: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_KEPT", kept)
    seen = HeldOut(model, images(7).split(3))
    for _ in range(2):
        parts = [part.images for part in seen.every(maps=False, most=most)]
        assert torch.equal(torch.cat([torch.empty(0, 1, 32, 32), *parts]), images(7)[:most])
