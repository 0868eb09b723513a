"""The standard normal prior p(z) = N(0, I)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaex.types import Posterior


class StandardNormal(nn.Module):
    """N(0, I) over the latents: no parameters, closed-form KL."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats per latent, shaped like ``z`` (B, D)."""
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def sample(self, count: int, latents: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``count`` codes, (S, D)."""
        return torch.randn(count, latents, generator=generator)

    def kl(self, posterior: Posterior, z: Tensor | None = None) -> Tensor:
        """Return KL(q(z|x) || p(z)) in nats per latent, (B, D); ``z`` serves priors without closed form."""
        return posterior.kl_to_normal()
