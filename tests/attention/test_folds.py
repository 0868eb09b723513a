"""Every fold against the plain loop: one backward pass per latent, on every network that vaex ships and on others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.attention.folds import channel_weights
from vaex.attention.layers import capture
from vaex.attention.values import target_values
from vaex.build import NETWORKS, build_model

CONFIGS: dict[str, dict[str, Any]] = {
    "mnist": {"latents": 5},
    "factor_vae": {"latents": 4},
    "conv": {"shape": [2, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 16, "norm": "group"},
    "resnet18": {"shape": [3, 64, 64], "latents": 3},
}
FOLDED = {  # layers of which a fold is known to be exact; the others are differentiated
    "mnist": {"conv1", "relu1", "conv2", "relu2"},
    "factor_vae": {"conv1", "relu1", "conv2", "relu2", "conv3", "relu3", "conv4", "relu4"},
    "conv": {"relu1", "norm2", "relu2"},
    "resnet18": {"layer4", "layer3", "layer2", "layer1"},
}


def looped(model: Any, images: Tensor, layer: str, target: str = "mean") -> tuple[Tensor, Tensor]:
    """Return activation and channel weights (T, B, K), one backward pass per target."""
    with torch.no_grad(), capture(model, (layer,), cut=True) as kept:
        output = model.encode(images) if hasattr(model, "encode") else model(images)
        with torch.enable_grad():
            values = target_values(output, target)
            rows = [
                torch.autograd.grad(values[:, t].sum(), kept[layer], retain_graph=True)[0].mean((-2, -1))
                for t in range(values.shape[1])
            ]
    return kept[layer].detach(), torch.stack(rows)


def folded(model: Any, images: Tensor, layer: str, target: str = "mean") -> Tensor | None:
    with torch.no_grad(), capture(model, (layer,), cut=True) as kept:
        output = model.encode(images) if hasattr(model, "encode") else model(images)
        with torch.enable_grad():
            values = target_values(output, target)
        return channel_weights(values, kept[layer])


def test_every_network_is_tried() -> None:
    assert set(CONFIGS) == set(NETWORKS)


def tried() -> list[Any]:
    """Every network with every target; of the large network one target is enough where time is short."""
    return [
        pytest.param(name, target, marks=pytest.mark.slow if (name, target != "sum") == ("resnet18", True) else ())
        for name in CONFIGS
        for target in ("mean", "sum", "kl", "sample")
    ]


@pytest.mark.parametrize(("name", "target"), tried())
def test_shipped_networks(name: str, target: str) -> None:
    torch.manual_seed(0)
    model = build_model({"name": name, **CONFIGS[name]}).eval()
    assert model.shape is not None
    images = torch.rand(3, *model.shape)
    done = set()
    layers = [n for n, m in model.encoder.named_children() if not isinstance(m, nn.Linear | nn.Flatten)]
    for layer in layers:
        activation, weights = (
            looped(model, images, f"encoder.{layer}", target) if not layer.startswith("pool") else (None, None)
        )
        if activation is None or weights is None or activation.dim() != 4:
            continue
        found = folded(model, images, f"encoder.{layer}", target)
        if found is not None:
            done.add(layer)
            torch.testing.assert_close(found, weights, rtol=1e-4, atol=1e-6 * float(weights.abs().max()))
        maps = latent_attention(model, images, f"encoder.{layer}", target=target, rectify="none", size="layer")
        expected = torch.einsum("tbk,bkhw->bthw", weights, activation)
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if target == "mean":
        assert done >= FOLDED[name] & set(layers), done


class Foreign(nn.Module):
    """Layers after ``stem`` as Python code has them."""

    def __init__(self, tail: Callable[[Tensor], Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.parts = nn.ModuleList(modules)
        self.tail = tail

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(self.stem(images))


def cases() -> dict[str, tuple[nn.Module, bool]]:
    torch.manual_seed(1)
    norm, conv = nn.BatchNorm2d(3), nn.Conv2d(3, 2, (3, 2), (2, 1), (1, 2), (1, 2))
    norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3) + 0.5
    wide, narrow, bare = nn.Linear(3 * 36, 7), nn.Linear(7, 4), nn.Linear(3, 4, bias=False)
    out, strided = nn.Linear(2 * 3 * 8, 4), nn.Conv2d(3, 2, 3, 2, 1)
    grouped = nn.Conv2d(3, 3, 3, groups=3)
    last = nn.Linear(3 * 16, 4)
    relu, gelu = nn.functional.relu, nn.functional.gelu
    return {
        "flatten, linear": (Foreign(lambda a: wide(a.flatten(1)), wide), True),
        "gelu, reshape, linear, tanh, linear": (
            Foreign(lambda a: narrow(torch.tanh(wide(gelu(a).reshape(len(a), -1)))), wide, narrow),
            True,
        ),
        "batch-norm, in-place relu, linear": (
            Foreign(lambda a: narrow(wide(torch.relu_(norm(a)).flatten(1))), norm, wide, narrow),
            True,
        ),
        "silu, mean, linear": (Foreign(lambda a: bare(nn.functional.silu(a).mean((2, 3))), bare), True),
        "pooling, linear": (Foreign(lambda a: bare(nn.AdaptiveAvgPool2d(1)(a).flatten(1)), bare), True),
        "relu, uneven convolution": (Foreign(lambda a: out(relu(conv(relu(a)))[..., :8].flatten(1)), conv, out), True),
        "uneven convolution at once": (Foreign(lambda a: out(relu(conv(a))[..., :8].flatten(1)), conv, out), True),
        "two convolutions at once": (
            Foreign(
                lambda a: out((conv(a)[..., :8] * strided(a).mean((2, 3), keepdim=True)).flatten(1)), conv, out, strided
            ),
            True,
        ),
        "elu, grouped convolution": (
            Foreign(lambda a: last(grouped(nn.functional.elu(a)).flatten(1)), grouped, last),
            False,
        ),
        "two paths": (Foreign(lambda a: wide((a + relu(a)).flatten(1)), wide), False),
        "channels last, linear": (Foreign(lambda a: wide(a.permute(0, 2, 3, 1).flatten(1)), wide), False),
        "max pooling": (Foreign(lambda a: bare(nn.functional.max_pool2d(a, 6).flatten(1)), bare), False),
        "mean over rows": (Foreign(lambda a: nn.functional.pad(a.mean(2), (0, 0)).mean(2), nn.Identity()), False),
        "scaled": (Foreign(lambda a: wide((2 * a).flatten(1)), wide), False),
    }


@pytest.mark.parametrize("name", cases())
def test_foreign_heads(name: str) -> None:
    model, folds = cases()[name]
    model.double().eval()
    images = torch.rand(4, 1, 6, 6, dtype=torch.float64)
    activation, weights = looped(model, images, "stem")
    found = folded(model, images, "stem")
    assert (found is not None) == folds
    if found is not None:
        torch.testing.assert_close(found, weights)
    maps = latent_attention(model, images, "stem", rectify="none", size="layer")
    torch.testing.assert_close(maps, torch.einsum("tbk,bkhw->bthw", weights, activation))


def test_frozen_weights_and_channels_last_memory() -> None:
    model = cases()["gelu, reshape, linear, tanh, linear"][0].double().eval().requires_grad_(False)
    images = torch.rand(4, 1, 6, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(folded(model, images, "stem"), looped(model, images, "stem")[1])


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model({"name": "factor_vae", "latents": 4}).eval()
    images = torch.rand(3, 1, 64, 64)
    whole = [folded(model, images, layer) for layer in ("conv1", "conv4")]
    monkeypatch.setattr("vaex.attention.folds.CHUNK_BYTES", 2**18)
    for layer, expected in zip(("conv1", "conv4"), whole, strict=True):
        torch.testing.assert_close(folded(model, images, layer), expected)


@pytest.mark.parametrize("layer", ["conv1", "relu1", "conv2", "conv4", "relu4"])
@pytest.mark.parametrize("count", [3, 4])
def test_a_loss_on_folded_maps_has_the_gradient_of_one_pass_per_target(layer: str, count: int) -> None:
    """In training, where the layer has a graph of its own, parameters before and behind it get the same gradient."""
    torch.manual_seed(0)
    model = build_model({"name": "factor_vae", "latents": 4}).double()
    images = torch.rand(2, 1, 64, 64, dtype=torch.float64)
    found = []
    for fold in (True, False):
        output = model(images, keep=(f"encoder.{layer}",), sample=False)
        activation, values = output.activations[f"encoder.{layer}"], output.posterior.mean[:, :count]
        if fold:
            weights = channel_weights(values, activation, create_graph=True)
            assert weights is not None
        else:
            rows = [torch.autograd.grad(v.sum(), activation, create_graph=True)[0] for v in values.unbind(1)]
            weights = torch.stack(rows).mean((-2, -1))
        loss = torch.einsum("tbk,bkhw->tbhw", weights, activation).relu().square().sum()
        used = [p for name, p in model.encoder.named_parameters() if not name.startswith("logvar")]
        gradients = torch.autograd.grad(loss, used, allow_unused=True)
        found.append([torch.zeros_like(p) if g is None else g for p, g in zip(used, gradients, strict=True)])
    assert all(gradient.abs().max() > 0 for gradient in found[1][:1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_smooth_activations_are_differentiated_where_a_graph_is_kept() -> None:
    torch.manual_seed(0)
    conv, behind, head = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3), nn.Linear(16, 4)
    activation = conv(torch.rand(2, 1, 6, 6))
    values = head(behind(torch.tanh(activation)).flatten(1))
    assert channel_weights(values, activation, create_graph=True) is None
