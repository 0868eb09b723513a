"""A look at a model leaves it as it was, and sees the same in every mode."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.attention.isolation import undisturbed
from vaex.errors import VaexError


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a call could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [len(getattr(module, kind)) for module in model.modules() for kind in hooks],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "tensor hooks": [len(p._backward_hooks or ()) for p in model.parameters()],
        "values": [hash(value.numpy().tobytes()) for value in model.state_dict().values()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def mixed(model: nn.Module) -> nn.Module:
    """Training mode here, evaluation mode there, and some parameters frozen."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 == 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    return model


@pytest.mark.parametrize("network", ["mnist", "factor_vae", "conv_batch"])
def test_nothing_is_left_behind(network: str, vae: Any, images: Any) -> None:
    model, x = mixed(vae(network)), images(network)
    model.get_submodule("encoder.conv1").register_forward_hook(lambda module, args, output: None)
    before, pixels, random = state(model), x.clone(), torch.get_rng_state()
    for options in ({}, {"method": "xgrad_cam", "target": "kl"}, {"layer": "relu2", "chunk": 1}, {"target": "sample"}):
        latent_attention(model, x, **options)
        assert state(model) == before
    assert torch.equal(x, pixels)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_nothing_is_left_behind_by_an_error(vae: Any, images: Any) -> None:
    model, x = mixed(vae("conv")), images("conv")
    before = state(model)
    failures: list[dict[str, Any]] = [
        {"layer": "nowhere"},
        {"layer": "deconv1"},
        {"layer": "fc1"},
        {"latents": [99]},
        {"target": lambda posterior: posterior.mean.detach()},
        {"target": lambda posterior: 1 / 0},
        {"reduce": "wrong", "target": "wrong"},
    ]
    for options in failures:
        with pytest.raises((VaexError, ZeroDivisionError)):
            latent_attention(model, x, **options)
        assert state(model) == before
        assert torch.is_grad_enabled()


def test_flags_come_back_though_eval_is_overridden(images: Any) -> None:
    class Backbone(nn.Sequential):
        def train(self, mode: bool = True) -> Backbone:
            return super().train(False)  # always frozen, as many are

    norm = nn.BatchNorm2d(2)
    model = nn.Sequential(Backbone(nn.Conv2d(1, 2, 4, 4), norm), nn.Flatten(), nn.LazyLinear(2))
    model(images("conv"))
    model.train()
    norm.training = True
    before = state(model)
    latent_attention(model, images("conv"), "0.0")
    assert state(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("create_graph", [False, True])
def test_two_hundred_calls_leave_memory_as_it_is(create_graph: bool, vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    before = state(model)

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    latent_attention(model, x, create_graph=create_graph)
    tensors = count()
    for _ in range(200):
        latent_attention(model, x, create_graph=create_graph)
    assert count() <= tensors  # fewer where something that other tests had left was freed meanwhile; a leak is 200 more
    assert state(model) == before


def test_the_graph_is_freed_without_the_garbage_collector(vae: Any, images: Any) -> None:
    model, x, alive = vae("conv"), images("conv"), []

    def target(posterior: Any) -> Tensor:
        alive.append(weakref.ref(posterior.mean))
        mean: Tensor = posterior.mean
        return mean

    gc.disable()
    try:
        maps = latent_attention(model, x, target=target)
        assert alive[0]() is None
    finally:
        gc.enable()
    assert maps.grad_fn is None


MODES: dict[str, Callable[[], Any]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "bf16 autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "set_grad_enabled": lambda: torch.set_grad_enabled(mode=False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", ["mnist", "conv_batch"])
def test_maps_are_exactly_the_same_in_every_mode(mode: str, network: str, vae: Any, images: Any) -> None:
    model, x = vae(network), images(network)
    expected = latent_attention(model, x, rectify="abs")
    with MODES[mode]():
        given = x * 1  # in inference mode: an inference tensor
        model(given)  # autocast keeps copies of the weights from here on
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        found = latent_attention(model, given, rectify="abs")
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")) == before
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert float(found.amax()) > 0


def test_a_model_that_works_in_place_leaves_the_images(images: Any) -> None:
    class Shifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.net = nn.Identity(), nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Flatten(), nn.Linear(128, 2))

        def forward(self, x: Tensor) -> Any:
            return self.net(self.start(x.sub_(0.5)))

    torch.manual_seed(0)
    model, x = Shifting(), images("conv")
    before = x.clone()
    expected = latent_attention(model, x, "start")
    assert torch.equal(x, before)
    with torch.inference_mode():
        assert torch.equal(latent_attention(model, x * 1, "start"), expected)


def test_images_that_require_gradients_get_none(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    expected = latent_attention(model, x)
    needy = x.clone().requires_grad_()
    assert torch.equal(latent_attention(model, needy), expected)
    part_of_a_graph = needy * 1
    assert not latent_attention(model, part_of_a_graph).requires_grad
    assert needy.grad is None


def test_training_mode_and_frozen_parameters_do_not_matter(vae: Any, images: Any) -> None:
    for network in ("conv_batch", "mnist"):
        model, x = vae(network), images(network)
        expected = latent_attention(model, x)
        assert torch.equal(latent_attention(model.train(), x), expected)
        model.requires_grad_(requires_grad=False)
        assert torch.equal(latent_attention(model, x), expected)


def test_a_model_that_draws_in_evaluation_mode_leaves_the_random_stream(images: Any) -> None:
    class Sampling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 4, 4), nn.Linear(128, 4)
            self.drawn: list[float] = []

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mu, logvar = self.fc(self.conv(x).flatten(1)).chunk(2, 1)
            self.drawn.append(float(torch.rand(1)))
            return mu + torch.randn_like(mu) * (logvar / 2).exp(), mu, logvar

    model = Sampling()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    latent_attention(model, images("conv"), "conv")
    assert model.drawn
    assert torch.equal(torch.rand(3), expected)


def test_undisturbed_yields_a_copy_in_the_models_precision() -> None:
    model, x = nn.Linear(2, 2).double(), torch.rand(1, 1, 2, 2)
    with undisturbed(model, x) as pixels:
        assert pixels.dtype == torch.float64
        assert not torch.is_grad_enabled()
        pixels.zero_()
    assert float(x.sum()) > 0
    with undisturbed(nn.Identity(), x) as pixels:
        assert pixels.dtype == torch.float32
