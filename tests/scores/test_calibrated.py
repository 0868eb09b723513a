"""Scores that compare with normal images, against loops, scipy's interpolation and numpy's inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

import vaex
from vaex.build import build_model
from vaex.calibrate import fit_calibration
from vaex.errors import VaexError
from vaex.explanation import explain_and_score, score_only
from vaex.networks import VAE
from vaex.scores import Evidence, score_images

NAMES = ["attention", "reconstruction", "kl", "deviation", "mahalanobis"]
NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def calibration(latents: int = 3, cells: tuple[int, int] = (2, 4)) -> dict[str, Any]:
    root = draw(latents, latents, seed=1)
    codes = {"mean": draw(latents, seed=2), "covariance": root @ root.T, "variance": draw(latents, seed=3)}
    return {"codes": codes, "maps": {"mean": draw(latents, *cells, seed=4), "deviation": draw(latents, *cells, seed=5)}}


def evidence(normal: Any = None, images: int = 2, latents: int = 3, size: tuple[int, int] = (6, 8)) -> Evidence:
    maps, mean = draw(images, latents, *size, seed=6), draw(images, latents, seed=7)
    return Evidence(draw(images, 1, *size), maps, None, None, mean, normal)


def bilinear(cells: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Pixel centres on cell centres, the border repeated."""
    axes = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(size, cells.shape, strict=True)]
    resized: np.ndarray[Any, Any] = map_coordinates(cells, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    return resized


def test_deviation_by_hand() -> None:
    normal = calibration()
    given = evidence(normal)
    found = score_images("deviation", given)
    assert found.score_map.shape == (2, 1, 6, 8)
    assert given.maps is not None
    eps = 0.01 * normal["maps"]["deviation"].numpy().mean()
    for b in range(2):
        total = np.zeros((6, 8))
        for t in range(3):
            mean = bilinear(normal["maps"]["mean"][t].numpy(), (6, 8))
            spread = bilinear(normal["maps"]["deviation"][t].numpy(), (6, 8))
            total += np.abs(given.maps[b, t].numpy() - mean) / (spread + eps)
        np.testing.assert_allclose(found.score_map[b, 0], total / 3, rtol=1e-9)
        assert float(found.score[b]) == pytest.approx(total.sum() / 3)


def test_deviation_of_maps_that_never_vary_is_finite() -> None:
    normal = calibration()
    normal["maps"]["deviation"].zero_()
    found = score_images("deviation", evidence(normal))
    assert torch.isfinite(found.score_map).all()
    same = evidence(normal, size=(2, 4))._replace(maps=normal["maps"]["mean"].expand(2, 3, 2, 4))
    assert score_images("deviation", same).score.tolist() == [0, 0]


def test_deviation_of_another_number_of_maps_is_told() -> None:
    with pytest.raises(VaexError, match="calibrated with, 3 an image, got 1"):
        score_images("deviation", evidence(calibration(), latents=1))


def test_mahalanobis_by_the_inverse() -> None:
    normal = calibration()
    given = evidence(normal)
    found = score_images("mahalanobis", given)
    covariance = normal["codes"]["covariance"].numpy()
    inverse = np.linalg.inv(covariance + 1e-3 * np.trace(covariance) / 3 * np.eye(3))
    assert given.mean is not None
    assert given.maps is not None
    for b in range(2):
        offset = given.mean[b].numpy() - normal["codes"]["mean"].numpy()
        assert float(found.score[b]) == pytest.approx(float(offset @ inverse @ offset), rel=1e-9)
    assert torch.equal(found.score_map, given.maps.mean(1, keepdim=True))


def test_a_singular_covariance_gives_a_finite_distance() -> None:
    normal = calibration()
    normal["codes"]["covariance"] = torch.diag(torch.tensor([1.0, 0.0, 1e-9]))
    assert torch.isfinite(score_images("mahalanobis", evidence(normal)).score).all()
    normal["codes"]["covariance"] = torch.zeros(3, 3)
    assert torch.isfinite(score_images("mahalanobis", evidence(normal)).score).all()
    with pytest.raises(VaexError, match="needs the code of 3 latents, got one of 4"):
        score_images("mahalanobis", evidence(normal, latents=4))
    with pytest.raises(VaexError, match="needs the code of 3 latents, got none"):
        score_images("mahalanobis", evidence(normal)._replace(mean=None))


@pytest.mark.parametrize("name", ["deviation", "mahalanobis"])
@pytest.mark.parametrize("nothing", [None, {}])
def test_a_model_without_calibration_is_told_what_to_do(name: str, nothing: Any) -> None:
    with pytest.raises(VaexError, match=r"not calibrated.*run `vaex calibrate ckpt=\.\.\.`"):
        score_images(name, evidence(nothing))


# --- through `explain`


@pytest.fixture
def x() -> Tensor:
    return draw(5, 1, 32, 32).float()


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(1)
    return build_model(NETWORK)


@pytest.fixture
def calibrated(model: VAE) -> VAE:
    model.calibration = fit_calibration(model, [draw(9, 1, 32, 32, seed=8).float()], "conv2", target="kl")
    return model


def test_explain_takes_the_calibration_of_the_model(calibrated: VAE, x: Tensor) -> None:
    for name in ("deviation", "mahalanobis"):
        found = vaex.explain(calibrated, x, "conv2", target="kl", score=name)
        given = Evidence(x, found.maps, found.reconstruction, found.kl, found.mean, calibrated.calibration)
        torch.testing.assert_close(found.score, score_images(name, given).score)
        torch.testing.assert_close(found.score_map, score_images(name, given).score_map)
        assert found.score.dtype == torch.float32


def test_maps_of_another_kind_are_refused(calibrated: VAE, x: Tensor) -> None:
    for layer, options in (("conv1", {"target": "kl"}), ("conv2", {}), (None, {"target": "kl", "rectify": "abs"})):
        with pytest.raises(VaexError, match=r"with (layer=conv2|target=kl) and not .*; give the same options"):
            vaex.explain(calibrated, x, layer, score="deviation", **options)
    _, found = explain_and_score(calibrated, x, "conv2", target="mean", score="mahalanobis", scores=NAMES)
    assert "deviation" not in found  # mahalanobis reads no map


def test_scores_of_what_was_explained(calibrated: VAE, model: VAE, x: Tensor) -> None:
    _, found = explain_and_score(calibrated, x, "conv2", target="kl", chunk=2, scores=NAMES)
    assert list(found) == NAMES
    for name in NAMES:
        torch.testing.assert_close(
            found[name].score, vaex.explain(calibrated, x, "conv2", target="kl", score=name).score
        )
        torch.testing.assert_close(
            found[name].score_map, score_only(calibrated, x, "conv2", target="kl", score=name).score_map
        )
    model.calibration = {}
    _, found = explain_and_score(model, x, "conv2", target="kl", scores=NAMES)
    assert list(found) == ["attention", "reconstruction", "kl"]
    with pytest.raises(VaexError, match="not calibrated"):
        vaex.explain(model, x, score="deviation")


def test_a_normal_image_deviates_by_about_one_a_pixel() -> None:
    """Of normally distributed maps |M - mean| / deviation has the mean sqrt(2 / pi)."""
    maps = torch.randn(4000, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 5 + 7
    normal = calibration(2)
    normal["maps"] = {"mean": maps.mean(0), "deviation": maps.std(0)}
    found = score_images("deviation", evidence(normal, latents=2)._replace(maps=maps)).score_map
    assert float(found.mean()) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.02)
