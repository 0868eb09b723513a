"""Detectors on features, each against the formula written out with numpy or scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from vaex.errors import VaexError
from vaex.scores import Evidence, score_named
from vaex.scores.patchcore import k_centre, nearest_distance
from vaex.scores.score import Score

K, SIDE = 6, 4


def draw(count: int, seed: int) -> Tensor:
    """Features whose mean and spread differ from cell to cell."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randn(1, K, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    return place * 3 + torch.randn(count, K, SIDE, SIDE, generator=generator) * (0.2 + place.abs())


def evidence(features: Tensor, decoded: Tensor | None = None, calibration: Any = None) -> Evidence:
    images = torch.zeros(len(features), 3, SIDE, SIDE)  # of the size of the grid: the score map is not resized
    return Evidence(images, None, None, None, None, calibration, features, decoded, features)


def fitted(score: Score, *batches: Evidence, held_out: tuple[Evidence, ...] = ()) -> dict[str, Any]:
    fitter = score.fitter()
    assert fitter is not None
    for batch in batches:
        fitter.take(batch)
    return {"detectors": {score.known_as: {**fitter.state(held_out), "options": score.options_of_fit()}}}


def by_hand(train: np.ndarray[Any, Any], test: np.ndarray[Any, Any], shrink: float, free: bool) -> Any:
    """Mahalanobis distance at every cell, of (N, K, h, w), with the covariance of the cell, or of all."""
    result = np.zeros((len(test), SIDE, SIDE))
    for i in range(SIDE):
        for j in range(SIDE):
            normal = train[:, :, i, j] if not free else train.transpose(0, 2, 3, 1).reshape(-1, train.shape[1])
            covariance = np.cov(normal.T) + shrink * np.eye(train.shape[1])
            away = test[:, :, i, j] - normal.mean(0)
            result[:, i, j] = np.sqrt(np.einsum("nk,kl,nl->n", away, np.linalg.inv(covariance), away))
    return result


@pytest.mark.parametrize("position", ["aware", "free"])
def test_feature_distance_is_the_mahalanobis_distance(position: str) -> None:
    score = score_named({"name": "feature_distance", "position": position, "sigma": 0.0, "rank": K})
    train, test = draw(30, 0), draw(3, 1)
    calibration = fitted(score, evidence(train[:11]), evidence(train[11:]))
    found = score(evidence(test, calibration=calibration))
    expected = by_hand(train.double().numpy(), test.double().numpy(), 1.0, position == "free")
    np.testing.assert_allclose(found.score_map[:, 0], expected, rtol=2e-3)
    np.testing.assert_allclose(found.score, expected.reshape(3, -1).max(1), rtol=2e-3)


def test_feature_residual_judges_what_is_not_decoded() -> None:
    score = score_named({"name": "feature_residual", "position": "aware", "sigma": 0.0, "rank": K})
    train, test, decoded, of_test = draw(30, 0), draw(3, 1), draw(30, 2), draw(3, 3)
    found = score(evidence(test, of_test, fitted(score, evidence(train, decoded))))
    expected = by_hand((train - decoded).double().numpy(), (test - of_test).double().numpy(), 1.0, False)
    np.testing.assert_allclose(found.score_map[:, 0], expected, rtol=2e-3)


def test_feature_error_is_the_squared_error() -> None:
    test, decoded = draw(3, 1), draw(3, 2)
    found = score_named({"name": "feature_error", "sigma": 0.0})(evidence(test, decoded))
    np.testing.assert_allclose(found.score_map[:, 0], ((test - decoded).numpy() ** 2).sum(1), rtol=1e-5)


def test_padim_takes_some_channels_and_the_raw_features() -> None:
    score = score_named({"name": "padim", "channels": 4, "sigma": 0.0})
    train, test = draw(30, 0), draw(2, 1)
    calibration = fitted(score, evidence(train)._replace(features=None))
    found = score(evidence(test, calibration=calibration)).score_map[:, 0]
    from itertools import combinations

    candidates = [
        by_hand(train[:, list(c)].double().numpy(), test[:, list(c)].double().numpy(), 0.01, False)
        for c in combinations(range(K), 4)
    ]
    assert min(float(np.abs(found.numpy() - one).max() / one.max()) for one in candidates) < 5e-3


@pytest.mark.parametrize(("aligned", "expected"), [(True, "aware"), (False, "free")])
def test_the_position_is_chosen_by_the_likelihood_of_held_out_images(aligned: bool, expected: str) -> None:
    score = score_named({"name": "feature_distance", "rank": K, "shrink": 0.05})
    generator = torch.Generator().manual_seed(5)

    def images(count: int, seed: int) -> Tensor:
        if aligned:
            return draw(count, seed)
        return torch.randn(count, K, SIDE, SIDE, generator=generator)  # no cell differs from another

    state = fitted(score, evidence(images(12, 0)), held_out=(evidence(images(8, 1)),))["detectors"]["feature_distance"]
    assert state["chosen"] == expected
    assert (state["likelihood_aware"] > state["likelihood_free"]) == aligned
    with pytest.raises(VaexError, match="chooses its position by normal images that were held out"):
        fitted(score, evidence(images(12, 0)))


def test_patchcore_is_the_distance_to_the_nearest_normal_patch() -> None:
    score = score_named({"name": "patchcore", "patches": 10000, "sigma": 0.0})
    train, test = draw(5, 0), draw(2, 1)

    def patches(features: Tensor) -> Any:
        counts = uniform_filter(np.ones((SIDE, SIDE)), 3, mode="constant")
        summed = [
            [uniform_filter(c, 3, mode="constant") / counts for c in image] for image in features.double().numpy()
        ]
        return np.array(summed).transpose(0, 2, 3, 1).reshape(-1, K)

    memory = patches(train)
    scale = memory.std(0)
    nearest = NearestNeighbors(n_neighbors=1).fit(memory / scale).kneighbors(patches(test) / scale)[0]
    found = score(evidence(test, calibration=fitted(score, evidence(train[:2]), evidence(train[2:]))))
    np.testing.assert_allclose(found.score_map.flatten(), nearest.flatten(), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("offset", [0.0, 50.0, 1000.0])
def test_close_patches_far_from_the_origin_keep_their_distance(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(60, 40, generator=generator).double() + offset
    points = memory[:20] + 1e-2 * torch.randn(20, 40, generator=generator).double()
    points, memory = points.float(), memory.float()
    expected = (points.double()[:, None] - memory.double()).square().sum(-1).sqrt().amin(1)
    torch.testing.assert_close(nearest_distance(points, memory).double(), expected, rtol=2e-2, atol=0)


def test_patchcore_keeps_as_many_patches_as_it_is_told() -> None:
    for sampling in ("random", "greedy"):
        score = score_named({"name": "patchcore", "patches": 7, "sampling": sampling})
        state = fitted(score, evidence(draw(3, 0)), evidence(draw(3, 1)))["detectors"]["patchcore"]
        assert state["memory"].shape == (7, K)


def test_the_k_centre_covers_better_than_chance() -> None:
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)

    def radius(rows: Tensor) -> float:
        return float(torch.cdist(points, points[rows]).amin(1).max())

    chosen = k_centre(points, 20, generator)
    assert len(set(chosen.tolist())) == 20
    others = [radius(torch.randperm(300, generator=generator)[:20]) for _ in range(50)]
    assert radius(chosen) < min(others)


def test_the_mean_map_is_the_average_and_the_same_for_all() -> None:
    score = score_named({"name": "mean_map", "of": "feature_error", "label": "control"})
    train, decoded = draw(5, 0), draw(5, 1)
    calibration = fitted(score, evidence(train[:2], decoded[:2]), evidence(train[2:], decoded[2:]))
    single = [
        score_named("feature_error")(evidence(a[None], b[None])).score_map for a, b in zip(train, decoded, strict=True)
    ]
    found = score(evidence(draw(3, 7), draw(3, 8), calibration)).score_map
    for image in found:
        torch.testing.assert_close(image, torch.stack(single).mean(0)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(VaexError, match="cannot be the mean of itself"):
        score_named({"name": "mean_map", "of": "mean_map"}).fitter()


def test_what_is_missing_is_told() -> None:
    score = score_named("feature_distance")
    pixels = Evidence(torch.zeros(1, 3, 4, 4), None, None, None)
    with pytest.raises(VaexError, match="looks at image features, which this model has not"):
        score(pixels)
    assert score.missing(pixels)
    with pytest.raises(VaexError, match=r"not fitted to normal images.*vaex calibrate ckpt=\.\.\. score=feature_dist"):
        score(evidence(draw(1, 0)))
    calibration = fitted(score_named({"name": "feature_distance", "position": "free"}), evidence(draw(9, 0)))
    with pytest.raises(VaexError, match="was fitted with position=free and not auto"):
        score(evidence(draw(1, 0), calibration=calibration))
    with pytest.raises(VaexError, match="Unknown position of score 'feature_distance' 'awar'"):
        score_named({"name": "feature_distance", "position": "awar"})
    with pytest.raises(VaexError, match="rank of score 'padim' must be at least 1"):
        score_named({"name": "padim", "rank": 0})
    with pytest.raises(VaexError, match="Unknown sampling of score 'patchcore' 'any'"):
        score_named({"name": "patchcore", "sampling": "any"})
