"""Encoders against hand-computed shapes and parameter counts of the published networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vaex.errors import VaexError
from vaex.networks import conv_encoder, factor_vae_encoder, mnist_encoder
from vaex.networks.encoders import Encoder, normalisation
from vaex.types import LOGVAR_RANGE


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(encoder: Encoder, images: torch.Tensor) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    hidden = images
    for name in encoder.chain:
        hidden = encoder.get_submodule(name)(hidden)
        found[name] = tuple(hidden.shape[1:])
    return found


def test_mnist_network_is_the_released_one() -> None:
    encoder = mnist_encoder()
    found = shapes(encoder, torch.zeros(2, 1, 28, 28))
    assert found == {
        "conv1": (64, 14, 14),
        "relu1": (64, 14, 14),
        "conv2": (128, 7, 7),
        "relu2": (128, 7, 7),
        "flatten": (6272,),
        "fc1": (1024,),
        "relu3": (1024,),
    }
    conv1, conv2 = 64 * (1 * 16) + 64, 128 * (64 * 16) + 128
    fc1, heads = 6272 * 1024 + 1024, 2 * (1024 * 32 + 32)
    assert parameters(encoder) == conv1 + conv2 + fc1 + heads == 6_621_440
    for name in ("conv1", "conv2"):
        conv = encoder.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert (conv.kernel_size, conv.stride, conv.padding) == ((4, 4), (2, 2), (1, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_factor_vae_network_is_that_of_the_table(channels: int) -> None:
    encoder = factor_vae_encoder(channels=channels, latents=10)
    found = shapes(encoder, torch.zeros(2, channels, 64, 64))
    assert {name: found[name] for name in ("conv1", "conv2", "conv3", "conv4", "fc1")} == {
        "conv1": (32, 32, 32),
        "conv2": (32, 16, 16),
        "conv3": (64, 8, 8),
        "conv4": (64, 4, 4),
        "fc1": (128,),
    }
    assert [name for name in encoder.chain if name.startswith("relu")] == [f"relu{i}" for i in range(1, 6)]
    convs = (channels * 16 + 1) * 32 + (32 * 16 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 16 + 1) * 64
    assert parameters(encoder) == convs + (1024 + 1) * 128 + 2 * (128 + 1) * 10


def test_conv_network_takes_every_size_at_every_depth() -> None:
    for size in range(32, 257):
        for depth in (1, 3, int(math.log2(size))):
            encoder = conv_encoder((1, size, size), latents=2, width=1, depth=depth, hidden=2, max_width=2)
            found = shapes(encoder, torch.zeros(1, 1, size, size))
            cells = size
            for stage in range(1, depth + 1):
                cells //= 2
                assert found[f"conv{stage}"] == (min(2 ** (stage - 1), 2), cells, cells)


def test_conv_network_parameters_and_names() -> None:
    encoder = conv_encoder((3, 64, 64), latents=5, width=16, depth=3, hidden=20, norm="group", max_width=32)
    convs = (3 * 16 + 1) * 16 + (16 * 16 + 1) * 32 + (32 * 16 + 1) * 32
    norms = 2 * (16 + 32 + 32)
    assert parameters(encoder) == convs + norms + (32 * 8 * 8 + 1) * 20 + 2 * (20 + 1) * 5
    stages = [f"{kind}{stage}" for stage in (1, 2, 3) for kind in ("conv", "norm", "relu")]
    assert list(encoder.chain) == [*stages, "flatten", "fc1", "relu4"]
    assert [name for name, _ in encoder.named_children()] == [*encoder.chain, "mean", "logvar"]


def test_forward_is_the_chain_and_two_heads() -> None:
    torch.manual_seed(0)
    encoder = conv_encoder((1, 32, 32), latents=3, width=4, depth=3, hidden=8).double()
    images = torch.rand(5, 1, 32, 32, dtype=torch.float64)
    hidden = nn.Sequential(*(encoder.get_submodule(name) for name in encoder.chain))(images)
    mean, logvar = encoder(images)
    torch.testing.assert_close(mean, hidden @ encoder.mean.weight.T + encoder.mean.bias)
    torch.testing.assert_close(logvar, hidden @ encoder.logvar.weight.T + encoder.logvar.bias)
    assert not torch.equal(mean, logvar)


@pytest.mark.parametrize(("bias", "expected"), [(1e4, LOGVAR_RANGE[1]), (-1e4, LOGVAR_RANGE[0]), (0.25, 0.25)])
def test_logvar_is_clamped_so_that_no_variance_over_or_underflows(bias: float, expected: float) -> None:
    encoder = conv_encoder((1, 32, 32), latents=3, width=4, depth=3, hidden=8)
    with torch.no_grad():
        encoder.logvar.weight.zero_()
        encoder.logvar.bias.fill_(bias)
        posterior = encoder(torch.rand(2, 1, 32, 32))
    assert torch.equal(posterior.logvar, torch.full((2, 3), expected))
    variance = posterior.logvar.exp()
    assert bool(torch.isfinite(variance).all())
    assert bool((variance > 0).all())


@pytest.mark.parametrize(("norm", "independent"), [("none", True), ("group", True), ("batch", False)])
def test_norms_couple_the_images_of_a_batch_or_not(norm: str, independent: bool) -> None:
    torch.manual_seed(0)
    encoder = conv_encoder((1, 32, 32), latents=3, width=4, depth=3, hidden=8, norm=norm).train()
    images = torch.rand(6, 1, 32, 32)
    alone, among = encoder(images[:2]).mean, encoder(images).mean[:2]
    assert torch.allclose(alone, among, atol=1e-5) is independent


def test_group_norm_of_one_cell_still_lets_the_image_through() -> None:
    """A group of one channel and one cell is normalised to 0 whatever the image."""
    torch.manual_seed(0)
    encoder = conv_encoder((1, 32, 32), latents=2, width=2, depth=5, hidden=8, norm="group", max_width=8)
    first, second = encoder(torch.rand(2, 1, 32, 32)).mean
    assert not torch.allclose(first, second)
    groups = {
        c: norm.num_groups
        for c in (1, 2, 4, 7, 8, 12, 64)
        if isinstance(norm := normalisation("group", c), nn.GroupNorm)
    }
    assert groups == {1: 1, 2: 1, 4: 2, 7: 1, 8: 4, 12: 6, 64: 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 31, 31)}, "32 to 256 pixels, got 1x31x31"),
        ({"shape": (1, 257, 257)}, "32 to 256 pixels, got 1x257x257"),
        ({"shape": (1, 32, 64)}, "square images of 32 to 256 pixels, got 1x32x64"),
        ({"depth": 0}, "network.depth must be a whole number from 1 to 5 for 32 pixels, got 0"),
        ({"depth": 6}, "network.depth must be a whole number from 1 to 5 for 32 pixels, got 6"),
        ({"width": 0}, "network.width and network.max_width must be at least 1, got 0 and 256"),
        ({"max_width": 0}, "network.width and network.max_width must be at least 1, got 32 and 0"),
        ({"hidden": 0}, "network.hidden must be at least 1, got 0"),
        ({"latents": 0}, "network.latents must be at least 1, got 0"),
        ({"norm": "layer"}, "network.norm must be one of none, group, batch, got 'layer'"),
    ],
)
def test_settings_out_of_range_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        conv_encoder(**{"shape": (1, 32, 32), **options})  # type: ignore[arg-type]
