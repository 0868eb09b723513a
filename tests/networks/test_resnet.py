"""The ResNet-18 VAE: the published trunk, the sizes of both sides, and maps of every layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.attention.layers import resolve_layer
from vaex.build import build_model
from vaex.errors import VaexError
from vaex.networks import VAE, resnet18_decoder, resnet18_encoder
from vaex.networks.resnet import BasicBlock


def outputs(encoder: nn.Module, chain: tuple[str, ...], hidden: Tensor) -> dict[str, tuple[int, ...]]:
    found = {}
    with torch.no_grad():
        for name in chain:
            hidden = encoder.get_submodule(name)(hidden)
            found[name] = tuple(hidden.shape[1:])
    return found


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return build_model({"name": "resnet18", "shape": [3, 64, 64], "latents": 4}).eval()


@pytest.mark.parametrize(("channels", "norm"), [(3, "batch"), (1, "batch"), (3, "group"), (3, "none")])
def test_the_trunk_has_the_parameters_of_the_published_network(channels: int, norm: str) -> None:
    encoder = resnet18_encoder((channels, 64, 64), latents=5, norm=norm)
    trunk = sum(p.numel() for name, p in encoder.named_parameters() if name.split(".")[0] not in ("mean", "logvar"))
    normed = 64 + 4 * 64 + 5 * 128 + 5 * 256 + 5 * 512  # channels that are normalised: a scale and a shift each
    expected = 11_176_512 - (3 - channels) * 64 * 49 - (normed if norm == "none" else 0)  # a bias alone where not
    assert trunk == expected
    assert [tuple(head.weight.shape) for head in (encoder.mean, encoder.logvar)] == [(5, 512)] * 2


def test_stages_have_the_sizes_of_the_paper() -> None:
    """He et al., Table 1, has 224 pixels: 112, 56, 56, 28, 14, 7."""
    encoder = resnet18_encoder((3, 224, 224)).eval()
    found = outputs(encoder, encoder.chain, torch.zeros(1, 3, 224, 224))
    assert {name: found[name] for name in ("conv1", "pool1", "layer1", "layer2", "layer3", "layer4", "flatten")} == {
        "conv1": (64, 112, 112),
        "pool1": (64, 56, 56),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
        "flatten": (512,),
    }


def test_a_block_adds_its_input_and_rectifies_late() -> None:
    block = BasicBlock(2, 2, "none")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(block(x), x.relu())
    up = BasicBlock(2, 2, "none", upsample=True)
    for parameter in up.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(up(x), x.relu().repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("size", [64, 96, 256])
def test_the_decoder_mirrors_the_encoder(size: int) -> None:
    decoder = resnet18_decoder((1, size, size), latents=3).eval()
    found = outputs(decoder, decoder.chain, torch.zeros(1, 3))
    assert [found[f"stage{stage}"] for stage in (4, 3, 2, 1)] == [
        (256, size // 16, size // 16),
        (128, size // 8, size // 8),
        (64, size // 4, size // 4),
        (64, size // 4, size // 4),
    ]
    assert found["unflatten"] == (512, size // 32, size // 32)
    assert found["upsample1"] == (64, size // 2, size // 2)
    assert found["deconv2"] == (1, size, size)


def test_every_stage_gives_maps_by_its_plain_name(vae: VAE) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for layer, cells in {"conv1": 32, "layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2}.items():
        assert resolve_layer(vae, layer) == f"encoder.{layer}"
        maps = latent_attention(vae, images, layer, size="layer", latents=[0, 3], rectify="none")
        assert maps.shape == (2, 2, cells, cells)
        assert maps.abs().amax((-2, -1)).min() > 0
    assert latent_attention(vae, images).shape == (2, 4, 64, 64)  # and without a name


def test_the_map_of_layer4_is_that_of_the_heads_weights(vae: VAE) -> None:
    """Between ``layer4`` and the mean lie only an average over cells and a linear head, so alpha_k = W_k / cells."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    maps = latent_attention(vae, images, "layer4", size="layer")
    with torch.no_grad():
        activation = vae(images, keep=("layer4",)).activations["layer4"]
        expected = torch.einsum("dk,bkhw->bdhw", vae.encoder.mean.weight / 4, activation).relu()
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_it_reconstructs_and_every_parameter_gets_a_gradient(norm: str) -> None:
    torch.manual_seed(0)
    model = build_model({"name": "resnet18", "shape": [1, 64, 64], "latents": 2, "norm": norm})
    images = torch.rand(2, 1, 64, 64)
    output = model(images)
    assert output.reconstruction.shape == images.shape
    (output.kl.sum() - output.likelihood.log_prob(images).sum()).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not dead


def test_no_relu_works_in_place(vae: VAE) -> None:
    assert not [name for name, module in vae.named_modules() if getattr(module, "inplace", False)]


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 288, 288), (3, 100, 100), (3, 64, 96), (2, 64, 64)])
def test_other_images_are_refused(shape: tuple[int, int, int]) -> None:
    sides = "x".join(map(str, shape))
    with pytest.raises(VaexError, match=f"64 to 256 pixels, a multiple of 32, in 1 or 3 channels, got {sides}"):
        resnet18_encoder(shape)
    with pytest.raises(VaexError, match=f"got {sides}"):
        build_model({"name": "resnet18", "shape": list(shape)})


def test_an_unknown_norm_is_told() -> None:
    with pytest.raises(VaexError, match=r"network\.norm must be one of none, group, batch, got 'bach'"):
        resnet18_decoder((3, 64, 64), norm="bach")
