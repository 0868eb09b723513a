"""Attention that is to cover normal images: closed forms behind global pooling, the barrier by hand, differences."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.build import build_model, build_objective
from vaex.errors import VaexError
from vaex.networks.likelihoods import Gaussian
from vaex.objectives.coverage import AttentionExpansion, AttentionSize, extended_log_barrier
from vaex.types import Posterior, VAEOutput

CONF = Path(__file__).parents[2] / "conf" / "objective"
NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8}
NAMES = ("attention_expansion", "attention_size")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output_of(activation: Tensor, mean: Tensor) -> VAEOutput:
    """Return an output whose layer is known, with black reconstructions of 1x2x2 images and no KL."""
    likelihood = Gaussian(torch.zeros(len(mean), 1, 2, 2), torch.tensor(0.0))
    posterior = Posterior(mean, torch.zeros_like(mean))
    return VAEOutput(posterior, mean, likelihood, torch.zeros_like(mean), {"layer": activation})


def pooled(scale: float = 1.0) -> tuple[VAEOutput, Tensor]:
    """Return the output of a linear head behind global pooling, and its Grad-CAM of the sum, (B, 1, h, w)."""
    weight = scale * drawn(2, 4, seed=1)
    shift = torch.tensor([1.0, 0.0, 0.0]).double()[:, None] * weight.sum(0).sign()  # the first has large attention
    activation = (drawn(3, 4, 5, 6) + shift[..., None, None]).requires_grad_()
    maps = torch.einsum("k,bkhw->bhw", weight.sum(0) / 30, activation)[:, None]
    return output_of(activation, activation.mean((2, 3)) @ weight.T), maps


# The barrier


def test_the_barrier_is_the_logarithm_and_then_its_tangent() -> None:
    t = 20.0
    for excess in (-0.9, -0.2, -0.01):
        assert float(extended_log_barrier(torch.tensor(excess).double(), t)) == pytest.approx(-math.log(-excess) / t)
    at, slope = -1 / t**2, t  # -log(1 / t^2) / t, and 1 / (t / t^2)
    for excess in (at, 0.0, 0.3):
        expected = math.log(t**2) / t + slope * (excess - at)
        assert float(extended_log_barrier(torch.tensor(excess).double(), t)) == pytest.approx(expected)


@pytest.mark.parametrize("t", [1.0, 20.0])
def test_the_barrier_and_its_slope_have_no_jump(t: float) -> None:
    excess = (torch.linspace(-0.5, 0.5, 41).double() - 1 / t**2).requires_grad_()
    (found,) = torch.autograd.grad(extended_log_barrier(excess, t).sum(), excess)
    assert bool(found.isfinite().all())
    with torch.no_grad():
        sides = (extended_log_barrier(excess + 1e-7, t) - extended_log_barrier(excess - 1e-7, t)) / 2e-7
    torch.testing.assert_close(found, sides, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[21:], torch.full((20,), t).double())


# The terms


@pytest.mark.parametrize("rectify", ["one_minus_sigmoid", "one_minus_min_max"])
def test_the_map_behind_global_pooling_in_closed_form(rectify: str) -> None:
    output, maps = pooled()
    found = AttentionExpansion(layer="layer", rectify=rectify).maps(output)
    flat = maps.detach().flatten(1)
    if rectify == "one_minus_sigmoid":
        expected = 1 - 1 / (1 + torch.exp(-flat))
    else:
        low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
        expected = 1 - (flat - low) / (high - low)
    torch.testing.assert_close(found.detach().flatten(1), expected)


@pytest.mark.parametrize("kind", [AttentionExpansion, AttentionSize])
def test_the_terms_add_up(kind: type[AttentionExpansion]) -> None:
    output, maps = pooled(scale=200.0)  # some images keep the constraint and others do not
    output = output._replace(kl=torch.full((3, 2), 0.7))
    images = drawn(3, 1, 2, 2, seed=2).float()
    terms = kind(weight=3.0, layer="layer", beta=0.5)(images, output, 0)
    left_out = torch.sigmoid(-maps).mean((1, 2, 3)).detach()  # (B,)
    reconstruction = float(0.5 * images.square().sum() / 3) + 4 * 0.5 * math.log(2 * math.pi)
    price = float(left_out.mean())
    if kind is AttentionSize:
        assert 0 < int((left_out < 0.2).sum()) < 3
        single = [-math.log(0.2 - u) / 20 if u - 0.2 <= -1 / 400 else None for u in left_out.tolist()]
        beyond = [20 * (u - 0.2) + math.log(400) / 20 + 1 / 20 for u in left_out.tolist()]
        price = sum(b if s is None else s for s, b in zip(single, beyond, strict=True)) / 3
    expected = {"reconstruction": reconstruction, "kl": 1.4, "attention_left_out": float(left_out.mean())}
    found = {name: float(value.detach()) for name, value in terms.parts.items()}
    assert found == pytest.approx({**expected, "price": price}, rel=1e-5)
    assert float(terms.total.detach()) == pytest.approx((reconstruction + 0.5 * 1.4) / 4 + 3 * price, rel=1e-5)


@pytest.mark.parametrize("kind", [AttentionExpansion, AttentionSize])
@pytest.mark.parametrize("rectify", ["one_minus_sigmoid", "one_minus_min_max"])
def test_the_weights_learn_through_the_gradient_that_is_the_map(kind: type[AttentionExpansion], rectify: str) -> None:
    """The derivative of the price by weights before and behind the layer, against the difference of two prices."""
    images = drawn(2, 2, 6, 6)
    torch.manual_seed(0)
    first, last = nn.Conv2d(2, 3, 3).double(), nn.Conv2d(3, 2, 3).double()
    objective = kind(layer="layer", rectify=rectify)

    def price() -> Tensor:
        layer = torch.tanh(first(images))
        mean = 30 * torch.tanh(last(layer)).square().mean((2, 3))
        return objective(images.new_zeros(2, 1, 2, 2), output_of(layer, mean), 0).parts["price"]

    for weight in (first.weight, last.weight):
        found = torch.autograd.grad(price(), [weight])[0]
        direction = drawn(*weight.shape, seed=3)
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight += step * direction
            sides.append(float(price().detach()))
            with torch.no_grad():
                weight -= step * direction
        assert float((found * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8)
        assert float(found.abs().sum()) > 1e-4


# On a network


@pytest.mark.parametrize("name", NAMES)
def test_the_map_that_is_trained_is_the_one_that_explains(name: str) -> None:
    torch.manual_seed(0)
    vae, images = build_model(NETWORK), torch.rand(2, 1, 32, 32)
    config = {"name": name, "method": "hires_cam", "target": "total_kl", "rectify": "one_minus_min_max"}
    objective: Any = build_objective(config, vae)
    assert objective.layer == "encoder.conv2"  # the default
    output = vae(images, keep=objective.keep, sample=False)
    options: dict[str, Any] = {key: value for key, value in config.items() if key != "name"}
    shown = latent_attention(vae, images, "conv2", size="layer", **options)
    assert float(shown.std()) > 0.05
    torch.testing.assert_close(objective.maps(output).detach(), shown, rtol=1e-4, atol=1e-5)
    objective(images, output, 0).parts["price"].backward()
    assert vae.encoder.get_submodule("conv1").weight.grad.abs().sum() > 0  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_a_choice_holds_the_defaults(name: str) -> None:
    given = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    kind = AttentionSize if name == "attention_size" else AttentionExpansion
    assert given.pop("name") == name
    assert {key: getattr(kind(), key) for key in given} == given


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rectify": "one_minus_sigmoyd"}, "did you mean 'one_minus_sigmoid'"),
        ({"rectify": "relu"}, "objective.rectify 'relu'"),
        ({"target": "kl"}, "one value for an image, such as sum, got 'kl'"),
        ({"weight": -1.0}, "objective.weight must be a number of 0 or more"),
        ({"share": 1.0}, r"share must be in \(0, 1\) and objective.t above 0, got 1.0"),
        ({"t": 0.0}, "objective.t above 0"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_objective({"name": "attention_size", **options})


def test_what_gives_no_map_is_told() -> None:
    with pytest.raises(VaexError, match="did you mean 'conv2'"):
        build_objective({"name": "attention_size", "layer": "conv22"}, build_model(NETWORK))
    with pytest.raises(VaexError, match="Batch-norm layer 'norm1' in training mode couples the images"):
        build_objective({"name": "attention_expansion"}, build_model({**NETWORK, "norm": "batch"}))
    output, _ = pooled()
    with pytest.raises(VaexError, match="give the model to build_objective too, or name a layer"):
        AttentionExpansion()(torch.zeros(3, 1, 2, 2), output, 0)
