"""Maps of several layers as one, against loops over pixels and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from vaex.attention import latent_attention
from vaex.attention.fusion import FUSIONS, product_fusion, to_one

MAPS = torch.randn(3, 2, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_hand(values: list[float]) -> float:
    """Geometric mean with the sign that all share, else 0."""
    if all(value > 0 for value in values) or all(value < 0 for value in values):
        size = math.prod(abs(value) for value in values) ** (1 / len(values))
        return math.copysign(size, values[0])
    return 0.0


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_product_keeps_the_sign_on_which_all_layers_agree(layers: int) -> None:
    maps = MAPS[:layers].clone()
    maps[0, 0, 0, 0] = 0
    found = product_fusion(maps)
    columns = maps.flatten(1).T.tolist()
    expected = torch.tensor([by_hand(column) for column in columns], dtype=torch.float64).view_as(found)
    torch.testing.assert_close(found, expected)
    assert bool((found < 0).any())  # where every layer is negative
    assert bool((found == 0).any())


def test_a_product_of_many_weak_maps_does_not_vanish() -> None:
    maps = torch.full((9, 1, 1, 1, 1), 1e-6)
    torch.testing.assert_close(product_fusion(maps), maps[0])


def test_a_sum_alone_tells_a_bright_image_from_a_dark_one() -> None:
    """The second image is the first at a tenth of its brightness."""
    maps = torch.stack([MAPS[:, 0], MAPS[:, 0] / 10], 1)
    for name, ratio in {"mean": 1.0, "product": 1.0, "sum": 10.0}.items():
        bright, dark = FUSIONS[name](maps)
        torch.testing.assert_close(bright, ratio * dark)
    by_pixel = [sum(column) for column in maps.flatten(1).T.tolist()]
    torch.testing.assert_close(FUSIONS["sum"](maps).flatten(), torch.tensor(by_pixel, dtype=torch.float64))


def test_nan_stays_nan() -> None:
    maps = MAPS.clone()
    maps[1, 0, 0, 2, 2] = torch.nan
    for fuse in FUSIONS.values():
        assert torch.equal(fuse(maps).isnan(), maps.isnan().any(0))


def test_gradients_are_finite_where_a_layer_is_dark() -> None:
    maps = MAPS.abs().float()
    maps[0, :, :, 1] = 0
    maps[1, :, 1, 2] = 1e-45  # not 0, and its root has no slope in single precision
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad(product_fusion(maps).sum(), maps)
    assert bool(gradient.isfinite().all())
    assert float(gradient[:, :, :, 1].abs().sum()) == 0
    smooth = (MAPS.sign()[0] * (MAPS.abs() + 0.1)).requires_grad_()
    assert torch.autograd.gradcheck(product_fusion, (smooth,))


def test_empty_maps_stay_empty_and_have_a_gradient() -> None:
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 1, 1, 1] = 1e-44
    maps.requires_grad_()
    scaled = to_one(maps)
    assert torch.equal(scaled.detach(), maps.detach())
    assert bool(torch.autograd.grad(scaled.sum(), maps)[0].isfinite().all())


@pytest.mark.parametrize("rectify", ["relu", "none", "abs"])
def test_a_fused_loss_trains_with_finite_gradients(rectify: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        *(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    )
    x = torch.rand(2, 1, 16, 16)
    maps = latent_attention(model, x, ["1", "3"], rectify=rectify, fuse="product", create_graph=True)
    assert bool((maps == 0).any())  # or nothing is tested
    maps.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert float(gradients[0].abs().max()) > 0
