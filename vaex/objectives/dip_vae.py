"""DIP-VAE I and II: the covariance of the codes is drawn to the identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaex.objectives.codes import all_codes, check_weights
from vaex.objectives.elbo import ELBO, elbo_terms
from vaex.objectives.terms import Terms
from vaex.types import Batch, VAEOutput


def covariance_of_means(means: Tensor) -> Tensor:
    """Return the covariance of codes (B, D) over the batch, (D, D), divided by B."""
    centred = means - means.mean(0)
    with torch.autocast(means.device.type, enabled=False):  # a product in bf16 would lose small covariances
        return centred.mT @ centred / len(means)


def identity_penalties(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of squares of ``covariance`` (D, D) minus the identity, off and on the diagonal, each ()."""
    diagonal = covariance.diagonal()
    off_diagonal = covariance - torch.diag_embed(diagonal)
    return off_diagonal.square().sum(), (diagonal - 1).square().sum()


class DIPVAEI(ELBO):
    """Reconstruction + KL + ``off_diagonal`` sum_{i != j} Cov_ij^2 + ``diagonal`` sum_i (Cov_ii - 1)^2.

    Cov is the covariance of the posterior means. Its parts are those of the ELBO and the two sums, ``dip_off_diagonal``
    and ``dip_diagonal``, which are numbers, not nats. ``warmup`` is the factor of all but the reconstruction,
    ``free_bits`` are nats per latent of the KL. The codes of all processes are taken together.

    Source: Kumar, Sattigeri & Balakrishnan, "Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations", ICLR 2018, Eq. 6; diagonal = 10 off_diagonal as there and in disentanglement_lib, which sweeps
    off_diagonal over 1 to 50.

    Raises:
        VaexError: for a negative weight; for latent grids and batches of one.
    """

    name = "dip_vae_i"
    least = 2

    def __init__(
        self,
        off_diagonal: float = 10.0,
        diagonal: float = 100.0,
        warmup: Mapping[str, Any] | None = None,
        free_bits: float = 0.0,
    ) -> None:
        check_weights(off_diagonal=off_diagonal, diagonal=diagonal)
        super().__init__(warmup=warmup, free_bits=free_bits)
        self.off_diagonal, self.diagonal = off_diagonal, diagonal

    def covariance(self, output: VAEOutput, step: int) -> Tensor:
        """Return the covariance that is penalised, (D, D)."""
        return covariance_of_means(all_codes(output.posterior.mean, self.name, step))

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``.

        Raises:
            VaexError: for latent grids, and for a batch of one image.
        """
        factor = self.warmup(step)
        total, parts = elbo_terms(images, output, factor, self.free_bits, step)
        off_diagonal, diagonal = identity_penalties(self.covariance(output, step))
        total = total + factor * (self.off_diagonal * off_diagonal + self.diagonal * diagonal)
        return Terms(total, {**parts, "dip_off_diagonal": off_diagonal, "dip_diagonal": diagonal})


class DIPVAEII(DIPVAEI):
    """`DIPVAEI` of the covariance of the sampled codes, Cov[z] = E[diag(variance)] + Cov[mean].

    Source: as `DIPVAEI`, Eq. 7; diagonal = off_diagonal.
    """

    name = "dip_vae_ii"

    def __init__(
        self,
        off_diagonal: float = 10.0,
        diagonal: float = 10.0,
        warmup: Mapping[str, Any] | None = None,
        free_bits: float = 0.0,
    ) -> None:
        super().__init__(off_diagonal, diagonal, warmup, free_bits)

    def covariance(self, output: VAEOutput, step: int) -> Tensor:
        """Return the covariance that is penalised, (D, D)."""
        variance = all_codes(output.posterior.logvar, self.name, step).exp().mean(0)  # (D,)
        return super().covariance(output, step) + torch.diag_embed(variance)
