"""The evidence lower bound, the objective of the plain VAE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaex.checked import call_checked
from vaex.errors import VaexError
from vaex.objectives.gathering import joint_mean
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.objectives.warmup import Warmup
from vaex.types import Batch, VAEOutput


def free_bits_kl(kl: Tensor, free_bits: float, step: int = AFTER_TRAINING) -> Tensor:
    """Sum over latents of max(``free_bits``, KL averaged over the batch), () in nats; ``kl`` is (B, D).

    The batch is that of all processes at optimiser step ``step``; after training each has its own.

    Source: Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016, Eq. 15,
    with one latent per group.
    """
    return joint_mean(kl.mean(0), step).clamp(min=free_bits).sum()


def elbo_terms(
    images: Tensor, output: VAEOutput, beta: float = 1.0, free_bits: float = 0.0, step: int = AFTER_TRAINING
) -> Terms:
    """Return -log p(x|z) + ``beta`` KL(q(z|x) || p(z)), averaged over the batch, in nats per image.

    The parts ``reconstruction`` and ``kl`` are unweighted and without free bits, so that they compare across runs.
    ``step`` is that of `free_bits_kl`.
    """
    reconstruction = -output.likelihood.log_prob(images).mean()
    kl = output.kl.float() if output.kl.dtype != torch.float64 else output.kl
    total_kl = kl.flatten(1).sum(1).mean()
    penalty = free_bits_kl(kl, free_bits, step) if free_bits > 0 else total_kl
    parts = {
        "reconstruction": reconstruction,
        "kl": total_kl,
        "beta": torch.as_tensor(beta, dtype=reconstruction.dtype, device=reconstruction.device),
    }
    return Terms(reconstruction + beta * penalty, parts)


class ELBO:
    """The plain VAE: reconstruction + KL, with optional KL warm-up and free bits (nats per latent).

    Source: Kingma & Welling, ICLR 2014, Eq. 10.

    Raises:
        VaexError: for negative free bits or a warm-up out of range.
    """

    keep: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __init__(self, warmup: Mapping[str, Any] | None = None, free_bits: float = 0.0, beta: float = 1.0) -> None:
        if not (0 <= free_bits < math.inf and 0 <= beta < math.inf):
            raise VaexError(f"objective.free_bits and objective.beta must be 0 or more, got {free_bits} and {beta}.")
        self.warmup: Warmup = call_checked("objective.warmup", Warmup, warmup or {})
        self.free_bits = free_bits
        self.beta = beta

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``."""
        return elbo_terms(images, output, self.beta * self.warmup(step), self.free_bits, step)
