"""Outputs of VAEs made of plain tensors, for tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from vaex.networks.likelihoods import Gaussian
from vaex.priors import StandardNormal
from vaex.types import Posterior, VAEOutput


def codes(count: int, latents: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, mean and logvar, each (B, D) in double precision, z drawn from the posterior they state."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(count, latents, generator=generator, dtype=torch.float64)
    logvar = torch.randn(count, latents, generator=generator, dtype=torch.float64) - 1
    noise = torch.randn(count, latents, generator=generator, dtype=torch.float64)
    return mean + noise * torch.exp(logvar / 2), mean, logvar


def output_of(z: Tensor, mean: Tensor, logvar: Tensor) -> VAEOutput:
    """Return an output whose reconstruction of black images is black: log p(x|z) is constant."""
    posterior = Posterior(mean, logvar)
    likelihood = Gaussian(torch.zeros(len(z), 1, 2, 2), torch.tensor(0.0))
    return VAEOutput(posterior, z, likelihood, StandardNormal().kl(posterior), {})


def black(count: int) -> Tensor:
    """Return images (B, 1, 2, 2)."""
    return torch.zeros(count, 1, 2, 2)
