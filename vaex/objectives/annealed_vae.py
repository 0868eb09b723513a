"""The annealed VAE: the KL is held at a capacity that rises during training."""

from __future__ import annotations

from torch import Tensor

from vaex.errors import VaexError
from vaex.objectives.codes import check_weights
from vaex.objectives.elbo import elbo_terms
from vaex.objectives.gathering import joint_mean
from vaex.objectives.terms import Terms
from vaex.types import Batch, VAEOutput


class AnnealedVAE:
    """Reconstruction + ``gamma`` |KL - C|, where C rises from 0 to ``capacity`` nats in ``steps`` optimiser steps.

    KL is the mean over the batches of all processes, summed over latents (of a latent grid also over cells). Its parts
    are those of the ELBO and ``capacity``, C in nats. The defaults are those of the paper for dSprites. With C = 0 it
    is the beta-VAE of beta = gamma. Neither free bits nor a warm-up: C is both.

    Source: Burgess et al., "Understanding disentangling in beta-VAE", 2018, Eq. 8; annealed as in disentanglement_lib.

    Raises:
        VaexError: for a negative weight or capacity, or fewer than one step.
    """

    keep: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __init__(self, gamma: float = 1000.0, capacity: float = 25.0, steps: int = 100_000) -> None:
        check_weights(gamma=gamma, capacity=capacity)
        if steps < 1:
            raise VaexError(f"objective.steps must be at least 1, got {steps}; the capacity is reached after them.")
        self.gamma, self.capacity, self.steps = gamma, capacity, steps

    def capacity_at(self, step: int) -> float:
        """Return C in nats at optimiser step ``step`` (0 is the first)."""
        return self.capacity * min(step / self.steps, 1.0)

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``."""
        parts = elbo_terms(images, output).parts
        del parts["beta"]
        capacity = self.capacity_at(step)
        total = parts["reconstruction"] + self.gamma * (joint_mean(parts["kl"], step) - capacity).abs()
        return Terms(total, {**parts, "capacity": parts["kl"].new_tensor(capacity)})
