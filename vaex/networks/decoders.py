"""Decoders p(x|z): a chain of named layers from the code to the parameters of the likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from vaex.networks.encoders import conv_stages, normalisation
from vaex.networks.initial import started


class Decoder(nn.Module):
    """Map codes (B, D) to likelihood parameters (B, C, H, W); ``layers`` run in their order."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.chain = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, z: Tensor) -> Tensor:
        """Return the unnormalised parameters (logits for Bernoulli), (B, C, H, W)."""
        hidden = z
        for name in self.chain:
            hidden = self.get_submodule(name)(hidden)
        return hidden


def mnist_decoder(latents: int = 32) -> Decoder:
    """Mirror of `mnist_encoder`; the official sigmoid is part of the likelihood here.

    Source: Liu et al., CVPR 2020, released model.
    """
    return Decoder(
        {
            "fc1": nn.Linear(latents, 1024),
            "relu1": nn.ReLU(),
            "fc2": nn.Linear(1024, 128 * 7 * 7),
            "relu2": nn.ReLU(),
            "unflatten": nn.Unflatten(1, (128, 7, 7)),
            "deconv1": nn.ConvTranspose2d(128, 64, 4, 2, 1),  # (B, 64, 14, 14)
            "relu3": nn.ReLU(),
            "deconv2": nn.ConvTranspose2d(64, 1, 4, 2, 1),  # (B, 1, 28, 28)
        }
    )


def factor_vae_decoder(channels: int = 1, latents: int = 10, init: str = "torch") -> Decoder:
    """Decoder of FactorVAE for Cx64x64 images; its weights start by ``init`` (`started`).

    Source: Kim & Mnih, "Disentangling by Factorising", ICML 2018, Table 1.
    """
    decoder = Decoder(
        {
            "fc1": nn.Linear(latents, 128),
            "relu1": nn.ReLU(),
            "fc2": nn.Linear(128, 64 * 4 * 4),
            "relu2": nn.ReLU(),
            "unflatten": nn.Unflatten(1, (64, 4, 4)),
            "deconv1": nn.ConvTranspose2d(64, 64, 4, 2, 1),  # (B, 64, 8, 8)
            "relu3": nn.ReLU(),
            "deconv2": nn.ConvTranspose2d(64, 32, 4, 2, 1),  # (B, 32, 16, 16)
            "relu4": nn.ReLU(),
            "deconv3": nn.ConvTranspose2d(32, 32, 4, 2, 1),  # (B, 32, 32, 32)
            "relu5": nn.ReLU(),
            "deconv4": nn.ConvTranspose2d(32, channels, 4, 2, 1),  # (B, C, 64, 64)
        }
    )
    started(decoder, init)
    return decoder


def conv_decoder(
    shape: tuple[int, int, int],
    latents: int = 10,
    width: int = 32,
    depth: int = 4,
    hidden: int = 256,
    norm: str = "none",
    max_width: int = 256,
) -> Decoder:
    """Mirror of `conv_encoder`: two linear layers and ``depth`` stride-2 transposed convolutions."""
    widths, cells = (list(reversed(values)) for values in conv_stages(shape, width, depth, hidden, norm, max_width))
    layers: dict[str, nn.Module] = {
        "fc1": nn.Linear(latents, hidden),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(hidden, widths[0] * cells[0] ** 2),
        "relu2": nn.ReLU(),
        "unflatten": nn.Unflatten(1, (widths[0], cells[0], cells[0])),
    }
    for stage, (inner, outer) in enumerate(pairwise(widths), start=1):
        odd = cells[stage] % 2  # the encoder rounded this size down when it halved it
        layers[f"deconv{stage}"] = nn.ConvTranspose2d(inner, outer, 4, 2, 1, output_padding=odd)
        if stage < depth:  # the last stage states the likelihood's parameters and stays linear
            if (layer := normalisation(norm, outer)) is not None:
                layers[f"norm{stage}"] = layer
            layers[f"relu{stage + 2}"] = nn.ReLU()
    return Decoder(layers)
