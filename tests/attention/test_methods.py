"""Each method against its published formula, written as loops over channels and cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import METHODS, latent_attention
from vaex.attention.methods import RECTIFIERS, method_named, rectifier_named
from vaex.errors import VaexError


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    channels, height, width = activation.shape
    return sum((gradient[k].sum() / (height * width) * activation[k] for k in range(channels)), torch.zeros(()))


def hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return sum((gradient[k] * activation[k] for k in range(len(activation))), torch.zeros(()))


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return sum((gradient[k].clamp(min=0) * activation[k] for k in range(len(activation))), torch.zeros(()))


def xgrad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    result = torch.zeros_like(activation[0])
    for channel, slope in zip(activation, gradient, strict=True):
        if channel.abs().sum() > 0:
            result += (slope * channel / channel.sum()).sum() * channel
    return result


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    result = torch.zeros_like(activation[0])
    for channel, slope in zip(activation, gradient, strict=True):
        weight = torch.zeros(())
        for g in slope.flatten():
            bottom = 2 * g**2 + channel.sum() * g**3
            weight = weight + (g**2 / bottom if bottom != 0 else 0) * g.clamp(min=0)
        result += weight * channel
    return result


def activation_length(activation: Tensor, gradient: Tensor) -> Tensor:
    return torch.sqrt(sum((channel**2 for channel in activation), torch.zeros(())) / len(activation))


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "activation": activation_length,
}


def test_every_method_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(METHODS)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    torch.manual_seed(0)
    activation, gradient = torch.rand(3, 5, 4, 6, dtype=torch.float64), torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)
    activation[1, 2] = 0  # a dead channel
    found = METHODS[name](activation, gradient)
    assert found.shape == (2, 3, 4, 6)
    for t in range(2):
        for b in range(3):
            torch.testing.assert_close(found[t, b], FORMULAS[name](activation[b], gradient[t, b]))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("network", "layer"), [("mnist", "relu2"), ("factor_vae", "relu4"), ("conv_batch", "relu1")])
def test_method_on_a_network(name: str, network: str, layer: str, vae: Any, images: Any, gradient_of: Any) -> None:
    model, x = vae(network), images(network, 3)
    found = latent_attention(model, x, layer, method=name, rectify="none", size="layer")
    for b, (activation, gradients) in enumerate(gradient_of(model, x, layer, lambda mean, logvar: mean)):
        expected = torch.stack([FORMULAS[name](activation, gradient) for gradient in gradients])
        scale = float(expected.abs().amax())
        assert scale > 0
        torch.testing.assert_close(found[b], expected, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_stays_and_dead_channels_give_no_nan(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    activation, gradient = torch.rand(1, 4, 5, 5, dtype=dtype), torch.randn(2, 1, 4, 5, 5, dtype=dtype)
    activation[0, 1] = 0
    found = METHODS[name](activation, gradient)
    assert found.dtype == dtype
    assert bool(found.isfinite().all())


def test_hires_cam_is_complete_for_a_linear_head() -> None:
    """Draelos & Carin: gradient times activation sums to the output without its bias."""
    torch.manual_seed(0)
    head = nn.Linear(6 * 15 * 15, 4)
    model = nn.Sequential(nn.Conv2d(2, 6, 4, 2), nn.Flatten(), head).double()
    images = torch.rand(3, 2, 32, 32, dtype=torch.float64)
    maps = latent_attention(model, images, "0", method="hires_cam", rectify="none", size="layer")
    torch.testing.assert_close(maps.sum((2, 3)), model(images) - head.bias)


def test_grad_cam_equals_hires_cam_behind_global_pooling() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 4, 2), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    images = torch.rand(3, 2, 32, 32)
    first, second = (
        latent_attention(model, images, "1", method=name, rectify="none") for name in ("grad_cam", "hires_cam")
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_grad_cam_has_no_weights_before_a_normalisation_per_channel() -> None:
    """What the docstring warns of, for it looks like a bug: the mean of a channel does not reach the code."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 4, 2), nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(900, 2))
    before, behind = (
        latent_attention(model.double(), torch.rand(1, 1, 32, 32), layer, rectify="abs").amax() for layer in "01"
    )
    assert before < 1e-12 < 1e-4 < behind


def test_rectifiers() -> None:
    values = torch.tensor([-2.0, 0.0, 3.0])
    expected = {"relu": [0.0, 0.0, 3.0], "abs": [2.0, 0.0, 3.0], "none": [-2.0, 0.0, 3.0]}
    found = {name: rectifier(values[None]).flatten().tolist() for name, rectifier in RECTIFIERS.items()}
    assert found.pop("one_minus_sigmoid") == pytest.approx([1 - 1 / (1 + math.exp(-v)) for v in values.tolist()])
    assert found.pop("one_minus_min_max") == pytest.approx([1.0, 0.6, 0.0])
    assert found.pop("root") == pytest.approx([-math.sqrt(2), 0.0, math.sqrt(3)])
    assert found == expected
    slope = torch.zeros(1, requires_grad=True)
    RECTIFIERS["root"](slope).sum().backward()
    assert slope.grad is not None
    assert bool(slope.grad.isfinite())


def test_every_map_has_a_range_of_its_own_and_a_flat_one_leaves_nothing_out() -> None:
    maps = torch.tensor([[[[0.0, 4.0]], [[-1.0, 1.0]]], [[[2.0, 2.0]], [[0.0, 1e-30]]]])  # (2, 2, 1, 2)
    found = RECTIFIERS["one_minus_min_max"](maps)
    assert found.tolist() == [[[[1.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 0.0]], [[1.0, 0.0]]]]


def test_a_layer_read_directly_has_a_finite_slope_where_it_is_dead() -> None:
    activation = torch.zeros(1, 3, 2, 2, requires_grad=True)
    METHODS["activation"](activation, torch.zeros(1, 1, 3, 2, 2)).sum().backward()
    assert activation.grad is not None
    assert not activation.grad.any()


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(VaexError, match="did you mean 'layer_cam'"):
        method_named("layercam")
    with pytest.raises(VaexError, match="did you mean 'none'"):
        rectifier_named("non")
