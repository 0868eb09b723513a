"""Likelihoods p(x|z) of images in [0, 1]: what the decoder's output means, in nats per image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.errors import VaexError, unknown


def _per_image(values: Tensor) -> Tensor:
    # fp32 sums: thousands of bf16 terms would lose whole nats
    return values.float().flatten(1).sum(1) if values.dtype != torch.float64 else values.flatten(1).sum(1)


class Bernoulli(NamedTuple):
    """Pixels in [0, 1] as probabilities of white, from logits (B, C, H, W).

    Differs: grey values make this a cross-entropy rather than a density, as in most VAE code (Loaiza-Ganem &
    Cunningham, NeurIPS 2019, give the missing constant).
    """

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected image, (B, C, H, W) in (0, 1)."""
        return torch.sigmoid(self.logits)

    def log_prob(self, images: Tensor) -> Tensor:
        """Negative cross-entropy in nats per image, (B,)."""
        return -_per_image(F.binary_cross_entropy_with_logits(self.logits, images, reduction="none"))


class Gaussian(NamedTuple):
    """Independent normal pixels with mean ``location`` (B, C, H, W) and log standard deviation ``log_scale``."""

    location: Tensor
    log_scale: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected image, (B, C, H, W)."""
        return self.location

    def log_prob(self, images: Tensor) -> Tensor:
        """Log-density in nats per image, (B,)."""
        scaled = (images - self.location) * torch.exp(-self.log_scale)
        return -_per_image(0.5 * scaled.square() + self.log_scale + 0.5 * math.log(2 * math.pi))


class Laplace(NamedTuple):
    """Independent Laplace pixels with median ``location`` (B, C, H, W) and log scale ``log_scale``."""

    location: Tensor
    log_scale: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected image, (B, C, H, W)."""
        return self.location

    def log_prob(self, images: Tensor) -> Tensor:
        """Log-density in nats per image, (B,)."""
        scaled = (images - self.location).abs() * torch.exp(-self.log_scale)
        return -_per_image(scaled + self.log_scale + math.log(2))


LIKELIHOODS = ("bernoulli", "gaussian", "laplace")


class LikelihoodHead(nn.Module):
    """Turn the decoder's output into a likelihood; ``learned`` makes one scale for all pixels a parameter.

    A learned scale is clamped to exp(-6) to exp(3), so that pixels without noise do not drive it to 0.

    Source: the learned scale is the sigma-VAE of Rybkin, Daniilidis & Levine, ICML 2021 (shared sigma).

    Raises:
        VaexError: for an unknown name, a scale that is not positive, or a learned Bernoulli scale.
    """

    LOG_SCALE_RANGE = (-6.0, 3.0)

    def __init__(self, name: str = "bernoulli", scale: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if name not in LIKELIHOODS:
            raise unknown("likelihood", name, LIKELIHOODS)
        if not 0 < scale < math.inf:
            raise VaexError(f"network.likelihood.scale must be positive, got {scale}.")
        if learned and name == "bernoulli":
            raise VaexError("A Bernoulli likelihood has no scale to learn; set network.likelihood.learned=false.")
        low, high = self.LOG_SCALE_RANGE
        if learned and not low < math.log(scale) < high:
            raise VaexError(
                "network.likelihood.scale must start between "
                f"{math.exp(low):.4f} and {math.exp(high):.1f} when it is learned, got {scale}."
            )
        self.name = name
        self.learned = learned
        log_scale = torch.tensor(math.log(scale))
        if learned:
            self.log_scale: Tensor = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, parameters: Tensor) -> Bernoulli | Gaussian | Laplace:
        """Return p(x|z) for the decoder's output (B, C, H, W)."""
        if self.name == "bernoulli":
            return Bernoulli(parameters)
        kind = Gaussian if self.name == "gaussian" else Laplace
        return kind(parameters, self.log_scale.clamp(*self.LOG_SCALE_RANGE) if self.learned else self.log_scale)
