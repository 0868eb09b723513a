"""How weights start."""

from __future__ import annotations

import pytest
import torch

from vaex.build import build_model
from vaex.errors import VaexError


def test_normal_start_draws_linear_layers_and_convolutions_alone() -> None:
    plain, normal = (
        build_model({"name": "factor_vae", "shape": [1, 64, 64], "latents": 10, "init": init})
        for init in ("torch", "normal")
    )
    for name, layer in normal.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            assert layer.bias is not None
            assert not layer.bias.any()
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(layer.weight.mean().item()) < 0.004
        elif isinstance(layer, torch.nn.ConvTranspose2d):  # uniform within 1 / sqrt(fan), as torch has it
            bound = (layer.weight.shape[1] * 16) ** -0.5
            assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.05)
    second = plain.get_submodule("encoder.conv2")
    assert isinstance(second, torch.nn.Conv2d)
    assert second.weight.std().item() == pytest.approx((32 * 16 * 3) ** -0.5, rel=0.1)


def test_unknown_start_is_refused() -> None:
    with pytest.raises(VaexError, match="did you mean 'normal'"):
        build_model({"name": "factor_vae", "shape": [1, 64, 64], "init": "norma"})
