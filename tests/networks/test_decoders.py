"""Decoders against hand-computed shapes and parameter counts of the published networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vaex.errors import VaexError
from vaex.networks import conv_decoder, conv_encoder, factor_vae_decoder, mnist_decoder
from vaex.networks.decoders import Decoder


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(decoder: Decoder, z: torch.Tensor) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    hidden = z
    for name in decoder.chain:
        hidden = decoder.get_submodule(name)(hidden)
        found[name] = tuple(hidden.shape[1:])
    assert torch.equal(decoder(z), hidden)
    return found


def test_mnist_network_is_the_released_one_without_its_sigmoid() -> None:
    decoder = mnist_decoder()
    found = shapes(decoder, torch.randn(2, 32))
    assert found == {
        "fc1": (1024,),
        "relu1": (1024,),
        "fc2": (6272,),
        "relu2": (6272,),
        "unflatten": (128, 7, 7),
        "deconv1": (64, 14, 14),
        "relu3": (64, 14, 14),
        "deconv2": (1, 28, 28),
    }
    fc = 32 * 1024 + 1024 + 1024 * 6272 + 6272
    deconv = 128 * 64 * 16 + 64 + 64 * 1 * 16 + 1
    assert parameters(decoder) == fc + deconv == 6_594_753


@pytest.mark.parametrize("channels", [1, 3])
def test_factor_vae_network_is_that_of_the_table(channels: int) -> None:
    decoder = factor_vae_decoder(channels=channels, latents=10)
    found = shapes(decoder, torch.randn(2, 10))
    assert [(name, found[name]) for name in decoder.chain if "relu" not in name] == [
        ("fc1", (128,)),
        ("fc2", (1024,)),
        ("unflatten", (64, 4, 4)),
        ("deconv1", (64, 8, 8)),
        ("deconv2", (32, 16, 16)),
        ("deconv3", (32, 32, 32)),
        ("deconv4", (channels, 64, 64)),
    ]
    assert decoder.chain[-1] == "deconv4"  # logits: nothing behind it
    assert sum("relu" in name for name in decoder.chain) == 5
    fc = (10 + 1) * 128 + (128 + 1) * 1024
    deconv = 64 * 64 * 16 + 64 + 64 * 32 * 16 + 32 + 32 * 32 * 16 + 32 + 32 * channels * 16 + channels
    assert parameters(decoder) == fc + deconv


@pytest.mark.slow
def test_conv_network_gives_back_every_size_at_every_depth() -> None:
    for size in range(32, 257):
        for depth in (1, 3, int(math.log2(size))):
            decoder = conv_decoder((2, size, size), latents=2, width=1, depth=depth, hidden=2, max_width=2)
            assert decoder(torch.zeros(1, 2)).shape == (1, 2, size, size)


def test_conv_network_mirrors_the_encoder() -> None:
    options = {"latents": 5, "width": 4, "depth": 4, "hidden": 20, "norm": "batch", "max_width": 16}
    shape = (3, 100, 100)
    encoder, decoder = conv_encoder(shape, **options), conv_decoder(shape, **options)  # type: ignore[arg-type]
    found = shapes(decoder, torch.randn(2, 5))
    assert [found[f"deconv{stage}"] for stage in (1, 2, 3, 4)] == [
        (16, 12, 12),
        (8, 25, 25),
        (4, 50, 50),
        (3, 100, 100),
    ]
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    deconvs = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.weight.shape for m in convs] == [m.weight.shape for m in reversed(deconvs)]
    assert [name for name in decoder.chain if "norm" in name] == ["norm1", "norm2", "norm3"]


def test_the_last_layer_is_linear_without_norm() -> None:
    """Its output are logits or locations: doubling the last weights doubles them, and both signs occur."""
    torch.manual_seed(0)
    decoder = conv_decoder((1, 32, 32), latents=3, width=4, depth=3, hidden=8, norm="group")
    last = decoder.get_submodule("deconv3")
    z = torch.randn(4, 3)
    before = decoder(z)
    assert bool((before > 0).any())
    assert bool((before < 0).any())
    with torch.no_grad():
        for weight in last.parameters():
            weight.mul_(2)
    torch.testing.assert_close(decoder(z), 2 * before)


def test_settings_out_of_range_are_told() -> None:
    with pytest.raises(VaexError, match=r"network\.depth must be a whole number from 1 to 5 for 32 pixels, got 6"):
        conv_decoder((1, 32, 32), depth=6)
