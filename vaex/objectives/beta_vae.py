"""The beta-VAE objective: the ELBO with a heavier KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaex.objectives.elbo import ELBO


class BetaVAE(ELBO):
    """Reconstruction + ``beta`` KL; ``beta`` = 4 is the value of Higgins et al. for dSprites.

    Source: Higgins et al., "beta-VAE", ICLR 2017, Eq. 4.
    """

    def __init__(self, beta: float = 4.0, warmup: Mapping[str, Any] | None = None, free_bits: float = 0.0) -> None:
        super().__init__(warmup=warmup, free_bits=free_bits, beta=beta)
