"""FactorVAE: the ELBO and the total correlation of the codes, told by a discriminator that learns beside the VAE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.checked import call_checked
from vaex.errors import VaexError
from vaex.objectives.elbo import ELBO
from vaex.objectives.terms import Terms
from vaex.objectives.warmup import Warmup
from vaex.types import Batch, VAEOutput


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def total_correlation(logits: Tensor) -> Tensor:
    """Return the estimate mean(log D(z) / (1 - D(z))) of the total correlation, () in nats, of logits (B, 2).

    Source: Kim & Mnih, "Disentangling by Factorising", ICML 2018, Eq. 3.
    """
    return (_wide(logits[:, 0]) - _wide(logits[:, 1])).mean()


class DiscriminatorTerms(NamedTuple):
    """``loss`` () in nats; ``accuracy`` () in [0, 1], 0.5 being chance."""

    loss: Tensor
    accuracy: Tensor


def discriminator_terms(logits: Tensor, permuted: Tensor) -> DiscriminatorTerms:
    """Return what the discriminator minimises, of its logits (B, 2) for codes and for permuted codes.

    Half the cross-entropy of each, so that one that knows nothing has log 2.

    Source: Kim & Mnih, ICML 2018, Algorithm 2.
    """
    wide, wide_permuted = _wide(logits), _wide(permuted)
    first = torch.zeros(len(wide), dtype=torch.long, device=wide.device)
    second = torch.ones(len(wide_permuted), dtype=torch.long, device=wide.device)
    loss = 0.5 * (F.cross_entropy(wide, first) + F.cross_entropy(wide_permuted, second))
    with torch.no_grad():
        right = (wide[:, 0] > wide[:, 1]).float().mean() + (wide_permuted[:, 1] > wide_permuted[:, 0]).float().mean()
    return DiscriminatorTerms(loss, 0.5 * right)


def permuted_latents(codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return codes (B, D) in which each latent is permuted over the batch on its own, by a CPU ``generator``.

    Source: Kim & Mnih, ICML 2018, Algorithm 1.
    """
    order = torch.rand(codes.shape, generator=generator).argsort(0).to(codes.device)  # (B, D)
    return codes.gather(0, order)


class FactorVAE(ELBO):
    """Reconstruction + KL + ``gamma`` times the total correlation.

    Called as every objective is, it gives all but the total correlation, for which a discriminator is needed:
    `FactorVAEModule` holds one and adds it by `with_total_correlation`. ``warmup`` is a factor of gamma.
    ``discriminator`` holds the options of `Discriminator` and its ``optim``.

    Source: Kim & Mnih, ICML 2018, Eq. 2; gamma 40 is the best of the values in Liu et al., CVPR 2020, figure 8.

    Raises:
        VaexError: for a negative gamma, or a warm-up out of range.
    """

    def __init__(
        self,
        gamma: float = 40.0,
        warmup: Mapping[str, Any] | None = None,
        discriminator: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise VaexError(f"objective.gamma, the weight of the total correlation, must be 0 or more, got {gamma}.")
        if discriminator is not None and not isinstance(discriminator, Mapping):
            raise VaexError(
                f"objective.discriminator must be a mapping such as {{width: 1000}}, got {discriminator!r}."
            )
        self.gamma = gamma
        self.gamma_warmup: Warmup = call_checked("objective.warmup", Warmup, warmup or {})

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``, the total correlation left out of the total."""
        total, parts = super().__call__(images, output, step, batch)
        del parts["beta"]  # always 1
        return Terms(total, {**parts, "gamma": total.new_tensor(self.gamma * self.gamma_warmup(step))})


def with_total_correlation(terms: Terms, logits: Tensor) -> Terms:
    """Add gamma times the total correlation, by the discriminator's ``logits`` (B, 2), to the terms of `FactorVAE`."""
    correlation = total_correlation(logits)
    total = terms.total + terms.parts["gamma"] * correlation
    return Terms(total, {**terms.parts, "total_correlation": correlation})
