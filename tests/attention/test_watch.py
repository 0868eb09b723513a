"""Targets that are no numbers: which images are told, whose maps are NaN, and that the others are what they were."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from vaex.attention import IMAGE_METHODS, METHODS, latent_attention

X = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
METHOD_NAMES = [*METHODS, *IMAGE_METHODS]


def small() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_no_number(method: str, value: float) -> None:
    x = X.clone()
    x[2, 0, 5, 5] = value
    with pytest.warns(UserWarning, match=r"not finite for 1 of 4 images \(positions \[2\]\)") as told:
        found = latent_attention(small(), x, "0", method=method)
    assert len([one for one in told if "not finite" in str(one.message)]) == 1
    assert bool(found[2].isnan().all())
    others = [0, 1, 3]
    torch.testing.assert_close(found[others], latent_attention(small(), X, "0", method=method)[others])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_weights_behind_the_layer_that_are_no_numbers(method: str) -> None:
    model = small()
    with torch.no_grad():
        model[3].weight[1, 7] = float("nan")
    with pytest.warns(UserWarning, match="The target is not finite for 4 of 4 images"):
        found = latent_attention(model, X, "0", method=method, rectify="none")
    assert bool(found[:, 1].isnan().all())
    whole = latent_attention(small(), X, "0", method=method, rectify="none")[:, [0, 2]]
    others = found[:, [0, 2]]  # right, or NaN as well: 0 times NaN is no number
    torch.testing.assert_close(torch.where(others.isnan(), whole, others), whole)


def test_draws_that_are_no_numbers() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean = self.net(x)
            logvar = torch.zeros_like(mean)
            logvar[0, 1] = float("nan")
            return mean, logvar

    with pytest.warns(UserWarning, match=r"1 of 4 images \(positions \[0\]\)"):
        found = latent_attention(Wide(), X, "net.0", target={"name": "sample", "n": 2})
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[0, 1] = True
    assert torch.equal(found.isnan().flatten(2).all(2), expected)
    assert torch.equal(found.isnan().flatten(2).any(2), expected)


def test_nothing_is_said_of_numbers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHOD_NAMES:
            assert bool(latent_attention(small(), X, "0", method=method).isfinite().all())
