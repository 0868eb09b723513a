"""What is read at a layer: its output as it was, with a graph to the code, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.attention import latent_attention
from vaex.attention.layers import capture
from vaex.errors import VaexError

X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and a linear code; ``between`` is what happens to the first one's output."""

    def __init__(self, between: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 4, 4, 2, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(64, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.fc(self.act(self.conv2(self.between(self.conv1(x)))).flatten(1))
        return code


@pytest.mark.parametrize("name", ["relu", "relu_", "functional relu_", "module in place", "sigmoid_", "hardtanh_"])
@pytest.mark.parametrize("create_graph", [True, False])
def test_in_place_changes_behind_the_layer_do_not_reach_the_map(name: str, create_graph: bool) -> None:
    inplace: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "relu": (F.relu, F.relu),
        "relu_": (Tensor.relu_, F.relu),
        "functional relu_": (F.relu_, F.relu),
        "module in place": (nn.ReLU(inplace=True), F.relu),
        "sigmoid_": (torch.sigmoid_, torch.sigmoid),
        "hardtanh_": (lambda t: F.hardtanh_(t, 0, 0.1), lambda t: F.hardtanh(t, 0, 0.1)),
    }
    changed, plain = inplace[name]
    for layer in ("conv1", None):
        found = latent_attention(Net(changed), X, layer, rectify="abs", create_graph=create_graph)
        torch.testing.assert_close(found, latent_attention(Net(plain), X, layer, rectify="abs"))


def test_an_in_place_module_as_the_layer_is_read_behind_its_change() -> None:
    model = Net(F.relu)
    model.act = nn.ReLU(inplace=True)
    torch.testing.assert_close(latent_attention(model, X, "act"), latent_attention(Net(F.relu), X, "act"))


class Residual(nn.Module):
    """x + block(x), whose first layer works in place, so that what is added is its output too; the widespread idiom."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, 2, 1)
        self.block = nn.Sequential(nn.ReLU(True), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(True), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        mean: Tensor = self.head((hidden + self.block(hidden)).tanh().flatten(1))
        return mean


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
@pytest.mark.parametrize("layer", ["block.0", "block.2", "first"])
def test_an_in_place_layer_whose_input_is_read_again(layer: str, method: str) -> None:
    torch.manual_seed(0)
    model, images = Residual().double(), torch.rand(2, 1, 16, 16, dtype=torch.float64)
    hidden = model.first(images)
    activation = (hidden if layer == "first" else hidden.relu()).detach().requires_grad_()
    if layer == "block.2":
        activation = model.block[1](activation).relu().detach().requires_grad_()
        end = hidden.relu().detach() + model.block[3](activation)
    else:
        rectified = activation.relu() if layer == "first" else activation  # relu has no slope at its own 0
        end = rectified + model.block[3](model.block[1](rectified).relu())
    mean = model.head(end.tanh().flatten(1))
    expected = []
    for latent in range(5):
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), activation, retain_graph=True)
        weight = gradient.mean((2, 3), keepdim=True) if method == "grad_cam" else gradient
        expected.append((weight * activation.detach()).sum(1))
    for create_graph in (False, True):
        maps = latent_attention(
            model, images, layer, method=method, rectify="none", size="layer", create_graph=create_graph
        )
        torch.testing.assert_close(maps.detach(), torch.stack(expected, 1), rtol=1e-9, atol=1e-12)


def test_layer_that_runs_twice_is_refused_with_the_reason() -> None:
    model = Net()
    model.between = nn.Sequential(model.act)
    for create_graph in (False, True):
        with pytest.raises(VaexError, match="'act' runs more than once in a forward pass"):
            latent_attention(model, X, "act", create_graph=create_graph)
    assert not any(module._forward_hooks for module in model.modules())


def test_layer_behind_the_code_is_refused_with_the_reason(vae: Any, images: Any) -> None:
    with pytest.raises(VaexError, match=r"'deconv1' did not run when the images were encoded"):
        latent_attention(vae("conv"), images("conv"), "deconv1")
    with pytest.raises(VaexError, match="no gradient path to the layer: the layer lies behind the code"):
        latent_attention(WithDecoder(), X, "decoder")


class WithDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Net(), nn.Sequential(nn.Linear(3, 64), nn.Unflatten(1, (4, 4, 4)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.encoder(x)
        return self.decoder(mu), mu


def test_code_that_is_detached_from_the_layer_is_refused() -> None:
    def under_no_grad(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x * 1

    for between in (Tensor.detach, under_no_grad):
        with pytest.raises(VaexError, match=r"no gradient path .* detaches"):
            latent_attention(Net(between), X, "conv1")
        assert latent_attention(Net(between), X, "conv2").shape == (3, 3, 16, 16)


def test_an_encoder_wholly_under_no_grad_is_explained_all_the_same() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        @torch.no_grad()
        def encode(self, x: Tensor) -> Any:
            return self.net(x)

    for layer in (None, "conv1"):
        assert torch.equal(latent_attention(Frozen(), X, layer), latent_attention(Net(), X, layer))


def test_a_model_in_its_own_inference_mode_has_no_path() -> None:
    class Inference(Net):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    with pytest.raises(VaexError, match="no gradient path"):
        latent_attention(Inference(), X, "conv1")


@pytest.mark.parametrize("layer", ["fc", "flat"])
def test_layer_without_spatial_axes_is_refused(layer: str) -> None:
    class Flat(Net):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Flatten()
            self.between = lambda x: F.relu(self.flat(x).view_as(x))

    with pytest.raises(VaexError, match=rf"Layer '{layer}' gives \(3, \d+\), but a map needs an activation \(B, K, h"):
        latent_attention(Flat(), X, layer)


def test_layer_that_gives_no_floats_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Rank(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argsort()

    pair, rank = Pair(), Rank()
    model = Net(lambda x: pair(x)[0] + 0 * rank(x))
    model.pair, model.rank = pair, rank
    with pytest.raises(VaexError, match="'pair' returns a tuple, not a tensor of floats"):
        latent_attention(model, X, "pair")
    with pytest.raises(VaexError, match=r"'rank' returns a torch\.int64, not a tensor of floats"):
        latent_attention(model, X, "rank")


def test_capture_keeps_the_graph_for_objectives(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    output = model(x, keep=("conv1", "conv2", "conv1", "deconv1"))
    assert list(output.activations) == ["conv1", "conv2", "deconv1"]
    assert torch.equal(output.activations["conv1"], model.encoder.conv1(x))
    gradient = torch.autograd.grad(output.activations["conv2"].sum(), model.encoder.conv1.weight)[0]
    assert float(gradient.abs().sum()) > 0
    with torch.no_grad():
        assert not model(x, keep=("conv1",)).activations["conv1"].requires_grad


def test_capture_removes_its_hooks_though_a_name_is_wrong() -> None:
    model = Net()
    with pytest.raises(VaexError, match="does not exist"), capture(model, ("conv1", "conv9")):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_of_others_keep_their_effect() -> None:
    model, twin = Net(lambda x: x * 2), Net()
    twin.between = lambda x: x
    twin.conv1.register_forward_hook(lambda module, args, output: output * 2)
    expected = latent_attention(twin, X, "conv1", rectify="abs")
    # the layer's output as the rest of the model sees it, so twice the weights' output
    torch.testing.assert_close(expected, 1 * latent_attention(model, X, "conv1", rectify="abs"))
    assert len(twin.conv1._forward_hooks) == 1
