"""The InfoVAE: the aggregate posterior is drawn to the prior by the maximum mean discrepancy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vaex.errors import VaexError, unknown
from vaex.objectives.codes import all_codes, check_weights
from vaex.objectives.elbo import ELBO, elbo_terms
from vaex.objectives.gathering import gathered
from vaex.objectives.terms import Terms
from vaex.types import Batch, VAEOutput

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Widths that the kernel imq adds up, as in pythae."""


def rbf(squared: Tensor, width: float) -> Tensor:
    """Return exp(-r^2 / (2 ``width``)) of squared distances r^2: the Gaussian kernel."""
    return torch.exp(-squared / (2 * width))


def imq(squared: Tensor, width: float) -> Tensor:
    """Return sum_s C / (C + r^2), C = 2 ``width`` s, s in `SCALES`: inverse multiquadratics, with heavy tails."""
    return torch.stack([2 * width * s / (2 * width * s + squared) for s in SCALES]).sum(0)


KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {"rbf": rbf, "imq": imq}


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |a_i - b_j|^2 for codes (A, D) and (B, D): (A, B)."""
    return (a[:, None] - b[None]).square().sum(2)  # not by products, which lose small distances


def mmd(a: Tensor, b: Tensor, kernel: str = "rbf", bandwidth: float = 1.0) -> Tensor:
    """Return the squared maximum mean discrepancy of two sets of codes, each (B, D): ().

    The kernel's width is D ``bandwidth``^2. Of equal distributions it is 0 on average, so single values may be
    negative; those of ``imq`` are up to 14, of ``rbf`` up to 2.

    Source: Gretton et al., JMLR 2012, Eq. 3, as pythae has it: pairs within a set without those of a code with itself.

    Raises:
        VaexError: for an unknown kernel, or sets that do not match or hold fewer than two codes.
    """
    if kernel not in KERNELS:
        raise unknown("objective.kernel", kernel, KERNELS)
    if a.shape != b.shape or a.dim() != 2 or len(a) < 2:
        raise VaexError(f"The MMD compares two sets of 2 codes or more, got {tuple(a.shape)} and {tuple(b.shape)}.")
    count, width = len(a), a.shape[1] * bandwidth**2

    def within(codes: Tensor) -> Tensor:
        values = KERNELS[kernel](squared_distances(codes, codes), width)
        return (values.sum() - values.diagonal().sum()) / (count * (count - 1))

    return within(a) + within(b) - 2 * KERNELS[kernel](squared_distances(a, b), width).mean()


class InfoVAE(ELBO):
    """Reconstruction + (1 - ``alpha``) KL + (``alpha`` + ``scale`` - 1) MMD(q(z), p(z)); p(z) is N(0, I).

    ``scale`` is the paper's lambda. ``alpha`` = 1 is the MMD-VAE, whose KL does not count. As many codes are drawn
    from the prior as there are images. Its parts are those of the ELBO and ``mmd`` (a number, not nats). ``warmup`` is
    the factor of all but the reconstruction, ``free_bits`` are nats per latent of the KL. The codes of all processes
    are taken together.

    Source: Zhao, Song & Ermon, "InfoVAE", AAAI 2019, Eq. 6; alpha = 0 and lambda = 1000 with a Gaussian kernel is its
    set-up for MNIST. pythae's is alpha .5, lambda .03 and the kernel imq.

    Raises:
        VaexError: for an ``alpha`` above 1 or below 0, an MMD with a negative weight, an unknown kernel, or a bandwidth
            that is not positive; for latent grids and batches of one.
    """

    least = 2

    def __init__(
        self,
        alpha: float = 0.0,
        scale: float = 1000.0,
        kernel: str = "rbf",
        bandwidth: float = 1.0,
        warmup: Mapping[str, Any] | None = None,
        free_bits: float = 0.0,
    ) -> None:
        check_weights(alpha=alpha, scale=scale)
        if alpha > 1 or alpha + scale < 1:
            raise VaexError(
                "objective.alpha must be at most 1 and alpha + scale at least 1, or a term would be maximised, got "
                f"alpha={alpha} and scale={scale}."
            )
        if kernel not in KERNELS:
            raise unknown("objective.kernel", kernel, KERNELS)
        if not 0 < bandwidth < math.inf:
            raise VaexError(f"objective.bandwidth must be positive, got {bandwidth!r}.")
        super().__init__(warmup=warmup, free_bits=free_bits)
        self.alpha, self.scale, self.kernel, self.bandwidth = alpha, scale, kernel, bandwidth

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``.

        Raises:
            VaexError: for latent grids, and for a batch of one image.
        """
        factor = self.warmup(step)
        total, parts = elbo_terms(images, output, factor * (1 - self.alpha), self.free_bits, step)
        codes = all_codes(output.z, "info_vae", step)
        drawn = gathered(torch.randn_like(output.z, dtype=codes.dtype), step)  # each process draws its share
        distance = mmd(codes, drawn, self.kernel, self.bandwidth)
        total = total + factor * (self.alpha + self.scale - 1) * distance
        return Terms(total, {**parts, "mmd": distance})
