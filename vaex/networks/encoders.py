"""Encoders q(z|x): a chain of named layers and two linear heads.

Layers are numbered from the image on (``conv1``, ``relu1``, ``conv2`` ...), so that ``attention.layer=conv2``
names the second convolution in every network.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from vaex.errors import VaexError
from vaex.networks.initial import started
from vaex.shapes import check_shape
from vaex.types import LOGVAR_RANGE, Posterior


class Encoder(nn.Module):
    """Map images (B, C, H, W) to a diagonal Gaussian over D latents.

    ``layers`` run in their order and end in (B, ``features``); ``mean`` and ``logvar`` are linear heads on it.
    """

    def __init__(self, layers: Mapping[str, nn.Module], features: int, latents: int) -> None:
        super().__init__()
        if latents < 1:
            raise VaexError(f"network.latents must be at least 1, got {latents}.")
        self.chain = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.mean = nn.Linear(features, latents)
        self.logvar = nn.Linear(features, latents)
        self.latents = latents

    def forward(self, images: Tensor) -> Posterior:
        """Return the posterior, mean and logvar (B, D), logvar clamped to `LOGVAR_RANGE`."""
        hidden = images
        for name in self.chain:
            hidden = self.get_submodule(name)(hidden)
        return Posterior(self.mean(hidden), self.logvar(hidden).clamp(*LOGVAR_RANGE))


def mnist_encoder(latents: int = 32) -> Encoder:
    """Encoder of the official code for 1x28x28 images; ``conv2`` is the layer of the paper's MNIST maps.

    Source: Liu et al., CVPR 2020, released model (conv 64, conv 128, linear 6272 -> 1024).
    """
    layers = {
        "conv1": nn.Conv2d(1, 64, 4, 2, 1),  # (B, 64, 14, 14)
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(64, 128, 4, 2, 1),  # (B, 128, 7, 7)
        "relu2": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(128 * 7 * 7, 1024),
        "relu3": nn.ReLU(),
    }
    return Encoder(layers, 1024, latents)


def factor_vae_encoder(channels: int = 1, latents: int = 10, init: str = "torch") -> Encoder:
    """Encoder of FactorVAE for Cx64x64 images (dSprites); its weights start by ``init`` (`started`).

    Source: Kim & Mnih, "Disentangling by Factorising", ICML 2018, Table 1.
    """
    layers = {
        "conv1": nn.Conv2d(channels, 32, 4, 2, 1),  # (B, 32, 32, 32)
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(32, 32, 4, 2, 1),  # (B, 32, 16, 16)
        "relu2": nn.ReLU(),
        "conv3": nn.Conv2d(32, 64, 4, 2, 1),  # (B, 64, 8, 8)
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(64, 64, 4, 2, 1),  # (B, 64, 4, 4)
        "relu4": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(64 * 4 * 4, 128),
        "relu5": nn.ReLU(),
    }
    encoder = Encoder(layers, 128, latents)
    started(encoder, init)
    return encoder


NORMS = ("none", "group", "batch")


def normalisation(kind: str, channels: int) -> nn.Module | None:
    """Return the normalisation named ``kind``, or None; "group" keeps images independent.

    It has at most 8 groups of at least 2 channels: one channel of a single cell would be normalised to 0.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        groups = max(g for g in range(1, 9) if channels % g == 0 and (channels // g > 1 or g == 1))
        return nn.GroupNorm(groups, channels)
    return None


def conv_stages(
    shape: tuple[int, int, int], width: int, depth: int, hidden: int, norm: str, max_width: int
) -> tuple[list[int], list[int]]:
    """Return channels and cells a side of the image and of each stride-2 stage, both of length ``depth`` + 1.

    ``width`` is doubled per stage up to ``max_width``; cells are halved, rounded down.

    Raises:
        VaexError: when the image is not square or out of 32-256 pixels, or a value is out of range.
    """
    channels, size, _ = check_shape("conv", shape, depth)
    if hidden < 1:
        raise VaexError(f"network.hidden must be at least 1, got {hidden}.")
    if width < 1 or max_width < 1:
        raise VaexError(f"network.width and network.max_width must be at least 1, got {width} and {max_width}.")
    if norm not in NORMS:
        raise VaexError(f"network.norm must be one of {', '.join(NORMS)}, got '{norm}'.")
    return (
        [channels, *(min(width * 2**stage, max_width) for stage in range(depth))],
        [size >> stage for stage in range(depth + 1)],
    )


def conv_encoder(
    shape: tuple[int, int, int],
    latents: int = 10,
    width: int = 32,
    depth: int = 4,
    hidden: int = 256,
    norm: str = "none",
    max_width: int = 256,
) -> Encoder:
    """Encoder for square images of 32 to 256 pixels: ``depth`` stride-2 convolutions and one hidden layer."""
    widths, cells = conv_stages(shape, width, depth, hidden, norm, max_width)
    layers: dict[str, nn.Module] = {}
    for stage, (inner, outer) in enumerate(pairwise(widths), start=1):
        layers[f"conv{stage}"] = nn.Conv2d(inner, outer, 4, 2, 1)  # (B, outer, size // 2**stage, size // 2**stage)
        if (layer := normalisation(norm, outer)) is not None:
            layers[f"norm{stage}"] = layer
        layers[f"relu{stage}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(widths[-1] * cells[-1] ** 2, hidden)
    layers[f"relu{depth + 1}"] = nn.ReLU()
    return Encoder(layers, hidden, latents)
