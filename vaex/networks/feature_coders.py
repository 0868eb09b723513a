"""What a feature VAE is made of: encoders and decoders of features (B, K, h, w), and their likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaex.errors import VaexError
from vaex.networks.decoders import Decoder
from vaex.networks.encoders import Encoder
from vaex.types import Posterior

LOGVAR_RANGE = (-8.0, 4.0)
"""Posterior log-variances of feature VAEs."""


class FeatureGaussian(NamedTuple):
    """Independent normal features with mean ``location`` (B, K, h, w) and ``log_variance`` (K,) per channel.

    ``target`` are the features of the images that were encoded, (B, K, h, w), where the likelihood knows them;
    ``read`` finds those of other images.
    """

    location: Tensor
    log_variance: Tensor
    target: Tensor | None = None
    read: Callable[[Tensor], Tensor] | None = None

    @property
    def mean(self) -> Tensor:
        """Expected features, (B, K, h, w)."""
        return self.location

    def log_prob(self, values: Tensor) -> Tensor:
        """Log-density in nats per image, (B,), of features (B, K, h, w), or of the features of images (B, C, H, W).

        Given images, ``target`` is taken where there is one, so that an objective may call it with the images of its
        batch, as it does for a likelihood of pixels.

        Raises:
            VaexError: for images when neither ``target`` nor ``read`` is there.
        """
        features: Tensor | None = values
        if values.shape[1:] != self.location.shape[1:]:
            features = self.read(values) if self.target is None and self.read is not None else self.target
        if features is None:
            raise VaexError(
                f"This likelihood is of features {tuple(self.location.shape[1:])}, got {tuple(values.shape)}; give "
                "model.features(images)."
            )
        # fp32 at least: sums of many bf16 terms would lose whole nats
        location = self.location if self.location.dtype == torch.float64 else self.location.float()
        squares = (features.to(location.dtype) - location).square().sum((2, 3))  # (B, K)
        cells = location.shape[2] * location.shape[3]
        log_variance = self.log_variance.to(location.dtype)
        terms = squares * torch.exp(-log_variance) + cells * (log_variance + math.log(2 * math.pi))
        return -0.5 * terms.sum(1)


class FeatureLikelihood(nn.Module):
    """Turn decoded features into a likelihood; the log-variance of each channel is a parameter, 0 at the start."""

    name = "features"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(channels))

    def forward(self, location: Tensor) -> FeatureGaussian:
        """Return p(f|z) for decoded features (B, K, h, w)."""
        return FeatureGaussian(location, self.log_variance)


class FeatureEncoder(Encoder):
    """Encode features (B, K, h, w) as one code (B, D): ``conv1`` 1x1, ``conv2`` and ``conv3`` of stride 2."""

    def __init__(self, channels: int, grid: int, latents: int, widths: Sequence[int]) -> None:
        first, second, third = widths
        layers = {
            "conv1": nn.Conv2d(channels, first, 1),
            "gelu1": nn.GELU(),
            "conv2": nn.Conv2d(first, second, 3, 2, 1),
            "gelu2": nn.GELU(),
            "conv3": nn.Conv2d(second, third, 3, 2, 1),
            "gelu3": nn.GELU(),
            "flatten": nn.Flatten(),
        }
        super().__init__(layers, third * (grid // 4) ** 2, latents)

    def forward(self, images: Tensor) -> Posterior:
        """Return the posterior of features, mean and logvar (B, D)."""
        posterior = super().forward(images)
        return Posterior(posterior.mean, posterior.logvar.clamp(*LOGVAR_RANGE))


class FeatureDecoder(Decoder):
    """Mirror of `FeatureEncoder` plus ``bias`` (K, h, w), the features of every image; its last layer starts at 0."""

    def __init__(self, channels: int, grid: int, latents: int, widths: Sequence[int]) -> None:
        first, second, third = widths
        last = nn.Conv2d(first, channels, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        super().__init__(
            {
                "fc1": nn.Linear(latents, third * (grid // 4) ** 2),
                "unflatten": nn.Unflatten(1, (third, grid // 4, grid // 4)),
                "gelu1": nn.GELU(),
                "deconv1": nn.Conv2d(third, second, 3, 1, 1),  # before the upsampling: a quarter of the work
                "gelu2": nn.GELU(),
                "up1": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                "deconv2": nn.Conv2d(second, first, 3, 1, 1),
                "gelu3": nn.GELU(),
                "up2": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                "deconv3": last,
            }
        )
        self.bias = nn.Parameter(torch.zeros(channels, grid, grid))

    def forward(self, z: Tensor) -> Tensor:
        """Return the expected features of codes (B, D), (B, K, h, w)."""
        return super().forward(z) + self.bias


class GridEncoder(nn.Module):
    """Encode features e (B, K, h, w) as a grid of latents: mu = W e + U2 GELU(U1 * e), which is e at the start.

    ``conv1`` is U1, ``kernel`` cells a side; ``mean`` holds W and U2 as one 1x1 convolution of e and hidden channels.
    """

    def __init__(self, channels: int, latents: int, hidden: int, kernel: int = 3) -> None:
        super().__init__()
        self.latents = latents
        self.conv1 = nn.Conv2d(channels, hidden, kernel, 1, kernel // 2)
        self.gelu1 = nn.GELU()
        self.mean = nn.Conv2d(channels + hidden, latents, 1, bias=False)
        self.logvar = nn.Conv2d(channels, latents, 1)
        with torch.no_grad():
            self.mean.weight.zero_()
            self.mean.weight[:, :channels, 0, 0] = torch.eye(latents, channels)
            self.logvar.weight.zero_()
            nn.init.constant_(self.logvar.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Posterior:
        """Return the posterior, mean and logvar (B, D, h, w)."""
        hidden = self.gelu1(self.conv1(features))
        return Posterior(self.mean(torch.cat([features, hidden], 1)), self.logvar(features).clamp(*LOGVAR_RANGE))


def grid_decoder(channels: int, latents: int, hidden: int) -> Decoder:
    """Return the decoder of a latent grid: one 1x1 convolution to ``hidden`` channels, one to the features."""
    return Decoder(
        {
            "deconv1": nn.Conv2d(latents, hidden, 1),
            "gelu1": nn.GELU(),
            "deconv2": nn.Conv2d(hidden, channels, 1),
        }
    )
