"""VAEs of other libraries: pythae's and diffusers', against loops over images and targets written here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vaex
from vaex.attention import latent_attention
from vaex.attention.layers import default_layer
from vaex.attention.outputs import code_of, encoding, reconstruction_of
from vaex.types import Explanation

Values = Callable[[Tensor, Tensor], Tensor]  # mean, logvar -> one value per latent (and cell)

VALUES: dict[str, Values] = {
    "mean": lambda mean, logvar: mean,
    "logvar": lambda mean, logvar: logvar,
    "kl": lambda mean, logvar: 0.5 * (mean**2 + logvar.exp() - 1 - logvar),
}
VALUES["sum"], VALUES["total_kl"] = VALUES["mean"], VALUES["kl"]


def state(model: nn.Module) -> list[Any]:
    """What a call could leave changed: flags, hooks, gradients, values."""
    return [
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [(p.requires_grad, p.grad is None, len(p._backward_hooks or ())) for p in model.parameters()],
        [float(value.double().sum()) for value in model.state_dict().values()],
    ]


def by_loops(activations: list[Tensor], codes: list[tuple[Tensor, Tensor]], target: str, reduce: Any = "sum") -> Tensor:
    """Eq. 1-2, one image and one target at a time: (B, T, h, w), signed, of activations (1, K, h, w)."""
    maps = []
    for activation, (mean, logvar) in zip(activations, codes, strict=True):
        values = VALUES[target](mean, logvar)[0]  # (D,) or (D, i, j)
        if values.dim() == 3 and reduce == "sum":
            values = values.flatten(1).sum(1)
        elif values.dim() == 3 and reduce == "max":
            values = torch.stack([latent.max() for latent in values])
        elif values.dim() == 3:
            values = values[:, reduce[0], reduce[1]]
        scalars = [values.sum()] if target in ("sum", "total_kl") else list(values)
        for scalar in scalars:
            gradient = torch.autograd.grad(scalar, activation, retain_graph=True)[0][0]
            total = torch.zeros_like(activation[0, 0])
            for k in range(len(gradient)):
                total = total + gradient[k].mean() * activation[0, k]
            maps.append(total.detach())
    return torch.stack(maps).view(len(activations), -1, *maps[0].shape)


def close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().amax())
    assert largest > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * largest)


# --- pythae


@pytest.fixture
def pythae_vae() -> Any:
    """A pythae VAE with a convolutional encoder, as its documentation has users write one, in training mode."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm = nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4)
            self.conv2 = nn.Conv2d(4, 6, 4, 2, 1)
            self.embedding, self.log_var = nn.Linear(6 * 64, 3), nn.Linear(6 * 64, 3)

        def forward(self, x: Tensor) -> Any:
            hidden = torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))).flatten(1)
            return ModelOutput(embedding=self.embedding(hidden), log_covariance=self.log_var(hidden))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 32 * 32)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.fc(z)).view(-1, 1, 32, 32))

    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=(1, 32, 32), latent_dim=3), encoder=Encoder(), decoder=Decoder())
    model.encoder.norm.running_mean.normal_()
    model.encoder.norm.running_var.uniform_(0.5, 2)
    return model.train()


def grey() -> Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def pythae_parts(model: Any, layer: str) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Split the encoder by hand behind ``layer`` and run each image alone."""
    encoder, activations, codes = model.encoder, [], []
    norm = encoder.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    for image in grey():
        hidden = encoder.conv1(image[None])
        if layer == "conv1":
            hidden = hidden.detach().requires_grad_()
            activations.append(hidden)
        hidden = (hidden - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        hidden = encoder.conv2(hidden.relu())
        if layer == "conv2":
            hidden = hidden.detach().requires_grad_()
            activations.append(hidden)
        hidden = hidden.relu().flatten(1)
        codes.append((encoder.embedding(hidden), encoder.log_var(hidden)))
    return activations, codes


@pytest.mark.parametrize("target", VALUES)
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_maps_of_pythaes_encoder(layer: str, target: str, pythae_vae: Any) -> None:
    expected = by_loops(*pythae_parts(pythae_vae, layer), target)
    before = state(pythae_vae)
    close(latent_attention(pythae_vae.encoder, grey(), layer, target=target, size="layer", rectify="none"), expected)
    assert state(pythae_vae) == before
    assert all(module.training for module in pythae_vae.modules())


def test_latents_and_default_layer_of_pythaes_encoder(pythae_vae: Any) -> None:
    expected = by_loops(*pythae_parts(pythae_vae, "conv2"), "kl")
    found = latent_attention(pythae_vae.encoder, grey(), target="kl", latents=[2, 0], size="layer")
    close(found, expected[:, [2, 0]].clamp(min=0))


def test_what_is_called_of_a_pythae_model(pythae_vae: Any) -> None:
    encoder: nn.Module = pythae_vae.encoder
    assert encoding(encoder) is encoder
    assert encoding(pythae_vae) is encoder
    images = reconstruction_of(pythae_vae, torch.ones(3, 3), (3, 1, 32, 32))
    assert images is not None
    torch.testing.assert_close(images, torch.sigmoid(pythae_vae.decoder.fc(torch.ones(3, 3))).view(3, 1, 32, 32))


def test_pythaes_vae_itself_is_explained(pythae_vae: Any) -> None:
    expected = by_loops(*pythae_parts(pythae_vae, "conv2"), "mean")
    close(latent_attention(pythae_vae, grey(), "conv2", size="layer", rectify="none"), expected)
    found = vaex.explain(pythae_vae, grey(), "conv2")
    mean = torch.cat([mean for mean, _ in pythae_parts(pythae_vae, "conv2")[1]]).detach()
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-5)
    assert found.reconstruction is not None
    decoded = torch.sigmoid(pythae_vae.decoder.fc(found.mean)).view(3, 1, 32, 32)
    torch.testing.assert_close(found.reconstruction, decoded)


# --- diffusers


def autoencoder(**options: Any) -> Any:
    """AutoencoderKL as in latent diffusion, small and untrained: grids (B, 4, 16, 16) of images (B, 3, 32, 32)."""
    import diffusers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    build: Any = diffusers.AutoencoderKL
    return build(down_block_types=down, up_block_types=up, sample_size=32, **sizes, **options)


@pytest.fixture
def kl_vae() -> Any:
    return autoencoder().eval()


def coloured() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


def kl_parts(model: Any, layer: str) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Run each image alone and keep what a hook of PyTorch sees at ``layer``."""
    activations: list[Tensor] = []
    codes = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, args, output: activations.append(output))
    for image in coloured():
        distribution = model.encode(image[None]).latent_dist
        codes.append((distribution.mean, distribution.logvar))
    handle.remove()
    return activations, codes


@pytest.mark.parametrize("reduce", ["sum", "max", (3, 10)])
@pytest.mark.parametrize("target", VALUES)
def test_maps_of_latent_grids(target: str, reduce: Any, kl_vae: Any) -> None:
    expected = by_loops(*kl_parts(kl_vae, "encoder.mid_block"), target, reduce)
    assert expected.shape == (2, 1 if target in ("sum", "total_kl") else 4, 16, 16)
    before = state(kl_vae)
    close(
        latent_attention(
            kl_vae, coloured(), "encoder.mid_block", target=target, reduce=reduce, size="layer", rectify="none"
        ),
        expected,
    )
    assert state(kl_vae) == before


@pytest.mark.parametrize("layer", ["encoder.conv_in", "encoder.down_blocks.0", "encoder.mid_block.resnets.0.conv2"])
def test_named_layers_blocks_and_convolutions(layer: str, kl_vae: Any) -> None:
    expected = by_loops(*kl_parts(kl_vae, layer), "mean", (8, 8))
    found = latent_attention(kl_vae, coloured(), layer, reduce=(8, 8), latents=[3, 1], size="layer", rectify="none")
    close(found, expected[:, [3, 1]])


def test_default_layer_is_not_the_convolution_that_gives_the_code() -> None:
    model = autoencoder(use_quant_conv=False)
    layer = default_layer(model, model.encode, lambda output: code_of(output).mean, coloured()[:1])
    assert layer == "encoder.mid_block.resnets.1.conv2"
    expected = by_loops(*kl_parts(model.eval(), layer), "kl", "max")
    close(latent_attention(model, coloured(), target="kl", reduce="max", size="layer", rectify="none"), expected)


def test_default_layer_lies_before_the_mixing_of_the_codes_channels(kl_vae: Any) -> None:
    layer = default_layer(kl_vae, kl_vae.encode, lambda output: code_of(output).mean, coloured()[:1])
    assert layer == "encoder.mid_block.resnets.1.conv2"


def test_a_callable_target_reads_the_output_of_diffusers(kl_vae: Any) -> None:
    def corner(output: Any) -> Tensor:
        mean: Tensor = output.latent_dist.mean
        return mean[:, 1:3, 0, 0]

    found = latent_attention(kl_vae, coloured(), "encoder.mid_block", target=corner, size="layer", rectify="none")
    close(found, by_loops(*kl_parts(kl_vae, "encoder.mid_block"), "mean", (0, 0))[:, 1:3])


def test_code_and_kl_of_an_explanation(kl_vae: Any) -> None:
    found: Explanation = vaex.explain(kl_vae, coloured(), "encoder.mid_block", reduce=(1, 2))
    with torch.no_grad():
        distribution = kl_vae.encode(coloured()).latent_dist
    torch.testing.assert_close(found.mean, distribution.mean)
    torch.testing.assert_close(found.logvar, distribution.logvar)
    assert found.kl is not None
    torch.testing.assert_close(found.kl.sum(1), distribution.kl())  # diffusers' own, over latents and cells
    assert found.maps.shape == (2, 4, 32, 32)


def test_reconstruction_is_what_the_model_decodes(kl_vae: Any) -> None:
    with torch.no_grad():
        mean = kl_vae.encode(coloured()).latent_dist.mode()
        images = reconstruction_of(kl_vae, mean, coloured().shape)
        assert images is not None
        torch.testing.assert_close(images, kl_vae(coloured()).sample)


def test_reconstruction_of_an_explanation(kl_vae: Any) -> None:
    found = vaex.explain(kl_vae, coloured(), "encoder.mid_block", score="reconstruction")
    with torch.no_grad():
        expected = kl_vae(coloured()).sample
    assert found.reconstruction is not None
    torch.testing.assert_close(found.reconstruction, expected)
    torch.testing.assert_close(found.score, (coloured() - expected).square().sum((1, 2, 3)))


@pytest.mark.parametrize("name", ["pythae", "diffusers"])
def test_a_loss_on_the_maps_trains_the_encoder(name: str, pythae_vae: Any, kl_vae: Any) -> None:
    """The gradient of a loss on the maps, against the same with a hook of PyTorch and a graph kept by hand."""
    model, x, layer = (
        (pythae_vae.encoder, grey(), "conv1") if name == "pythae" else (kl_vae, coloured(), "encoder.mid_block")
    )
    model.eval()
    weight = next(iter(model.parameters()))
    maps = latent_attention(model, x, layer, target="kl", size="layer", rectify="none", create_graph=True)
    found = torch.autograd.grad(maps.square().mean(), weight)[0]
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, args, output: kept.append(output))
    output = model(x) if name == "pythae" else model.encode(x).latent_dist
    handle.remove()
    code = (output.embedding, output.log_covariance) if name == "pythae" else (output.mean, output.logvar)
    kl = VALUES["kl"](*code).flatten(2).sum(2) if name == "diffusers" else VALUES["kl"](*code)
    loops = []
    for t in range(kl.shape[1]):
        gradient = torch.autograd.grad(kl[:, t].sum(), kept[0], create_graph=True)[0]
        loops.append((gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1))
    expected = torch.autograd.grad(torch.stack(loops, 1).square().mean(), weight)[0]
    close(found, expected)
