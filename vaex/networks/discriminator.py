"""The discriminator of FactorVAE: codes of the posterior against codes whose latents were permuted."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from vaex.errors import VaexError
from vaex.networks.initial import started


class Discriminator(nn.Module):
    """Map codes (B, D) to two logits (B, 2): drawn from q(z), or with every latent permuted over the batch.

    ``depth`` linear layers of ``width`` units, of which the last has two, with leaky ReLUs of ``slope`` between them.

    Source: Kim & Mnih, "Disentangling by Factorising", ICML 2018, appendix A: 6 layers of 1000, slope 0.2.

    Raises:
        VaexError: for a value out of range.
    """

    def __init__(
        self, latents: int, width: int = 1000, depth: int = 6, slope: float = 0.2, init: str = "normal"
    ) -> None:
        super().__init__()
        if min(latents, width) < 1 or depth < 2:
            raise VaexError(
                "objective.discriminator needs a width of at least 1 and a depth of at least 2, "
                f"got width={width} and depth={depth}."
            )
        if not 0 <= slope < math.inf:
            raise VaexError(f"objective.discriminator.slope must be 0 or more, got {slope}.")
        sizes = [latents, *[width] * (depth - 1)]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.LeakyReLU(slope, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))
        started(self, init)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the logits (B, 2) of codes (B, D)."""
        logits: Tensor = self.layers(codes)
        return logits
