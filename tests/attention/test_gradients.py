"""Gradients of many targets against finite differences, first and second order, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import METHODS, attention_maps, gradients, latent_attention
from vaex.attention.gradients import target_gradients, targets_per_pass
from vaex.errors import VaexError


class Smooth(nn.Module):
    """A tiny encoder without kinks: conv, ELU, conv, Softplus, linear heads."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv1, self.elu = nn.Conv2d(1, 2, 3, 2), nn.ELU(inplace=inplace)
        self.conv2, self.softplus = nn.Conv2d(2, 3, 2), nn.Softplus()
        self.mean, self.logvar = nn.Linear(12, 2), nn.Linear(12, 2)

    def head(self, activation: Tensor) -> tuple[Tensor, Tensor]:
        """Run what follows conv1."""
        hidden = self.softplus(self.conv2(nn.functional.elu(activation))).flatten(1)
        return self.mean(hidden), self.logvar(hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.softplus(self.conv2(self.elu(self.conv1(x)))).flatten(1)
        return self.mean(hidden), self.logvar(hidden)


@pytest.fixture
def net() -> Smooth:
    torch.manual_seed(3)
    return Smooth().double()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 1, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_channel_weights_equal_finite_differences(net: Smooth, x: Tensor) -> None:
    """alpha_k is the change of the latent when all T cells of channel k rise together, over T."""
    with torch.no_grad():
        activation = net.conv1(x)
        cells, step = activation.shape[-1] * activation.shape[-2], 1e-5
        expected = torch.zeros(3, 2, 3, 3, dtype=torch.float64)
        for k in range(activation.shape[1]):
            shift = torch.zeros_like(activation)
            shift[:, k] = step
            slope = (net.head(activation + shift)[0] - net.head(activation - shift)[0]) / (2 * step)  # (B, D)
            expected += (slope / cells)[..., None, None] * activation[:, k, None]
    found = latent_attention(net, x, "conv1", rectify="none", size="layer")
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def test_each_cell_equals_finite_differences(net: Smooth, x: Tensor) -> None:
    with torch.no_grad():
        activation, step = net.conv1(x), 1e-5
        expected = torch.zeros(2, *activation.shape, dtype=torch.float64)
        for cell in range(activation[0].numel()):
            shift = torch.zeros_like(activation).flatten(1)
            shift[:, cell] = step
            shift = shift.view_as(activation)
            slope = (net.head(activation + shift)[1] - net.head(activation - shift)[1]) / (2 * step)
            expected.flatten(2)[:, :, cell] = slope.T
    leaf = activation.requires_grad_()
    found = torch.cat(list(target_gradients(net.head(leaf)[1], leaf)))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [None, 1])
def test_maps_for_losses_are_differentiable_twice(method: str, chunk: int | None, net: Smooth, x: Tensor) -> None:
    names = [name for name, _ in net.named_parameters()]

    def maps(images: Tensor, *values: Tensor) -> Tensor:
        weights = {f"net.{name}": value for name, value in zip(names, values, strict=True)}
        result: Tensor = torch.func.functional_call(_Maps(net, method, chunk), weights, images)
        return result

    inputs = (x[:2].clone().requires_grad_(), *(p.detach().clone().requires_grad_() for p in net.parameters()))
    assert torch.autograd.gradcheck(maps, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(maps, inputs, fast_mode=True, atol=1e-4)


class _Maps(nn.Module):
    def __init__(self, net: nn.Module, method: str, chunk: int | None) -> None:
        super().__init__()
        self.net, self.method, self.chunk = net, method, chunk

    def forward(self, x: Tensor) -> Tensor:
        # relu(sum_k alpha_k A_k) has kinks, so the differentiability of the sum inside is what is checked
        options: Any = {"method": self.method, "rectify": "none", "chunk": self.chunk, "create_graph": True}
        return latent_attention(self.net, x, "elu", **options)


def test_a_loss_on_the_maps_trains_layers_before_and_behind(net: Smooth, x: Tensor) -> None:
    maps = latent_attention(net, x, "conv1", create_graph=True)
    assert net.training
    assert bool((maps > 0).any())
    maps.sum().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert reached == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "mean.weight"}


def test_a_loss_may_be_computed_under_no_grad(net: Smooth, x: Tensor) -> None:
    with torch.no_grad():
        maps = latent_attention(net, x, "conv1", create_graph=True)
        plain = attention_maps(*_activation_and_code(net, x))
    assert maps.requires_grad
    assert not plain.requires_grad
    torch.testing.assert_close(plain, latent_attention(net, x, "conv1", size="layer"))


def _activation_and_code(net: Smooth, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        activation = net.conv1(x)
        return activation, net.head(activation)[0]


def test_a_frozen_trunk_leaves_the_head_trainable(net: Smooth, x: Tensor) -> None:
    free = latent_attention(net, x, "conv1", create_graph=True)
    expected = torch.autograd.grad(free.sum(), net.mean.weight)[0]
    net.conv1.requires_grad_(requires_grad=False)
    maps = latent_attention(net, x, "conv1", create_graph=True)
    torch.testing.assert_close(maps, free)
    torch.testing.assert_close(torch.autograd.grad(maps.sum(), net.mean.weight)[0], expected)
    assert net.conv1.weight.grad is None


def test_in_place_activation_behind_the_layer_is_differentiable_too(net: Smooth, x: Tensor) -> None:
    inplace = Smooth(inplace=True).double()
    inplace.load_state_dict(net.state_dict())
    results = []
    for model in (net, inplace):
        maps = latent_attention(model, x, "conv1", create_graph=True)
        results.append((maps, *torch.autograd.grad(maps.square().sum(), [model.conv1.weight, model.mean.weight])))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_batch_norm_in_training_mode_is_refused_for_losses(vae: Any, images: Any) -> None:
    model, x = vae("conv_batch"), images("conv_batch")
    frozen = latent_attention(model, x, "relu2", create_graph=True)
    torch.testing.assert_close(frozen.detach(), latent_attention(model, x, "relu2"))
    model.encoder.norm2.train()
    with pytest.raises(VaexError, match=r"'encoder\.norm2' in training mode couples the images"):
        latent_attention(model, x, "relu2", create_graph=True)
    assert model.encoder.norm2.training


def test_batch_norm_without_running_statistics_is_always_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()).eval()
    with pytest.raises(VaexError, match="'1' without running statistics couples the images"):
        latent_attention(model, torch.rand(2, 1, 5, 5), "0")


def test_loss_maps_equal_the_others_in_evaluation_mode(vae: Any, images: Any) -> None:
    for network in ("mnist", "factor_vae", "conv"):
        model, x = vae(network), images(network)
        with_graph = latent_attention(model, x, rectify="abs", create_graph=True)
        assert with_graph.requires_grad
        plain = latent_attention(model, x, rectify="abs")
        torch.testing.assert_close(with_graph.detach(), plain, rtol=0, atol=1e-5 * float(plain.amax()))


class _Cube(torch.autograd.Function):
    """x^3 with a backward that cannot be batched."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value**3

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        gradients[0].sum().item()  # what no batching rule can do
        slope: Tensor = 3 * value**2 * gradients[0]
        return slope


class Cubic(nn.Module):
    def __init__(self, custom: bool) -> None:
        super().__init__()
        self.conv, self.custom = nn.Conv2d(1, 2, 3), custom

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x)
        cube: Tensor = _Cube.apply(hidden) if self.custom else hidden**3  # type: ignore[no-untyped-call]
        return cube.mean((2, 3)) @ torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, -1]])


@pytest.mark.parametrize("chunk", [None, 3, 1])
def test_backward_that_cannot_be_batched_runs_one_by_one(chunk: int | None) -> None:
    torch.manual_seed(0)
    custom, plain, x = Cubic(custom=True), Cubic(custom=False), torch.rand(2, 1, 6, 6)
    custom.load_state_dict(plain.state_dict())
    expected = latent_attention(plain, x, "conv", rectify="none", chunk=chunk)
    torch.testing.assert_close(latent_attention(custom, x, "conv", rectify="none", chunk=chunk), expected)


class _Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value * 1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise RuntimeError("the kernel is broken")


def test_other_failures_of_the_backward_are_not_swallowed() -> None:
    leaf = torch.rand(1, 2, 3, 3, requires_grad=True)
    targets: Tensor = _Broken.apply(leaf).sum((2, 3))  # type: ignore[no-untyped-call]
    for chunk in (None, 1):
        with pytest.raises(RuntimeError, match="the kernel is broken"):
            list(target_gradients(targets, leaf, chunk=chunk))


def test_targets_per_pass_bounds_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    activation = torch.zeros(2, 3, 4, 5)  # 480 bytes
    monkeypatch.setattr(gradients, "BYTE_BUDGET", 4800)
    assert targets_per_pass(activation) == 10
    assert targets_per_pass(activation.double()) == 5
    monkeypatch.setattr(gradients, "BYTE_BUDGET", 10)
    assert targets_per_pass(activation) == 1
    leaf = torch.rand(2, 3, 4, 5, requires_grad=True)
    sizes = [len(block) for block in target_gradients(leaf.flatten(1)[:, :5] * 2, leaf)]
    assert sizes == [1] * 5
    assert [len(block) for block in target_gradients(leaf.flatten(1)[:, :5] * 2, leaf, chunk=2)] == [2, 2, 1]


@pytest.mark.parametrize("kind", ["constant", "other"])
def test_no_gradient_path_is_told(kind: str) -> None:
    leaf = torch.rand(1, 2, 3, 3, requires_grad=True)
    targets = torch.rand(1, 2) if kind == "constant" else torch.rand(1, 2, requires_grad=True) * 2
    for chunk in (None, 1):
        with pytest.raises(VaexError, match="no gradient path to the layer"):
            attention_maps(leaf, targets, chunk=chunk)
    with pytest.raises(VaexError, match="no gradient path to the layer"):
        attention_maps(leaf.detach(), leaf.sum((2, 3)))
