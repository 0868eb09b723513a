"""Codes of normal images that do not belong to the model are refused, and half precision is compared in full."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import Mahalanobis, NormalDifference, latent_attention
from vaex.attention.values import target_values
from vaex.calibrate import fit_calibration
from vaex.errors import VaexError
from vaex.types import NormalCodes

X = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
MU = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def codes(latents: int) -> NormalCodes:
    return NormalCodes(torch.zeros(latents), torch.eye(latents), torch.ones(latents))


class Grid(nn.Module):
    """A latent grid (B, 3, 4, 4), or with ``flat`` a code (B, 3)."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.start, self.mean, self.flat = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 3, 4, 2, 1), flat

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(self.start(x).tanh())
        mean = mean.mean((2, 3)) if self.flat else mean
        return mean, torch.zeros_like(mean)


@pytest.mark.parametrize("make", [NormalDifference, Mahalanobis])
@pytest.mark.parametrize("latents", [1, 2, 4])
def test_codes_of_another_number_of_latents(make: Any, latents: int) -> None:
    with pytest.raises(VaexError, match=f"with D = 3 as the model has, got D = {latents}"):
        target_values((MU, MU), make(codes(latents)))
    model = Grid(flat=True)
    model.calibration = {"codes": codes(latents)._asdict()}  # type: ignore[assignment]
    name = "mahalanobis" if make is Mahalanobis else "normal_difference"
    with pytest.raises(VaexError, match=f"holds codes of {latents} latents, and the model has 3"):
        latent_attention(model, X, "start", target=name)


@pytest.mark.parametrize("make", [NormalDifference, Mahalanobis])
def test_codes_of_wrong_shapes(make: Any) -> None:
    for wrong in (codes(3)._replace(covariance=torch.ones(3)), codes(3)._replace(mean=torch.zeros(1, 3))):
        with pytest.raises(VaexError, match=r"Normal codes must have mean \(D,\), covariance \(D, D\)"):
            target_values((MU, MU), make(wrong))


def test_a_grid_is_compared_as_it_was_calibrated() -> None:
    for reduce, other in (("sum", "max"), ((0, 1), "sum"), ((0, 1), (1, 0))):
        model = Grid()
        model.calibration = fit_calibration(model, [X], "start", reduce=reduce)  # type: ignore[assignment]
        assert latent_attention(model, X, "start", target="mahalanobis", reduce=reduce).shape == (6, 1, 16, 16)
        with pytest.raises(VaexError, match=r"were calibrated with reduce=.* and are compared with codes of reduce="):
            latent_attention(model, X, "start", target="mahalanobis", reduce=other)
    flat = Grid(flat=True)  # without a grid nothing is reduced
    flat.calibration = fit_calibration(flat, [X], "start")  # type: ignore[assignment]
    assert latent_attention(flat, X, "start", target="mahalanobis", reduce="max").shape == (6, 1, 16, 16)


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf"), "1", True])
def test_a_ridge_that_is_none(ridge: Any) -> None:
    with pytest.raises(VaexError, match="ridge of target 'mahalanobis' must be a number of 0 or more"):
        Mahalanobis(codes(3), ridge)


def test_a_collapsed_latent_needs_a_ridge() -> None:
    collapsed = codes(3)._replace(covariance=torch.diag(torch.tensor([1.0, 2.0, 0.0])))
    with pytest.raises(VaexError, match="a latent has collapsed; give target 'mahalanobis' a ridge above 0"):
        target_values((MU, MU), Mahalanobis(collapsed, 0.0))
    found = target_values((MU, MU), Mahalanobis(collapsed, 0.1))  # 0.1 of the mean variance 1
    expected = (MU**2 / torch.tensor([1.1, 2.1, 0.1])).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("target", ["mahalanobis", "normal_difference"])
def test_weights_in_half_precision(dtype: torch.dtype, tolerance: float, target: str) -> None:
    model, twin = Grid(flat=True).to(dtype), Grid(flat=True)
    twin.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    for one in (model, twin):
        one.calibration = {"codes": codes(3)._asdict()}  # type: ignore[assignment]
    for method in ("grad_cam", "hires_cam", "gradient", "integrated_gradients", "score_cam"):
        found = latent_attention(model, X, "start", target=target, method=method, rectify="none")
        expected = latent_attention(twin, X, "start", target=target, method=method, rectify="none")
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().amax()))
