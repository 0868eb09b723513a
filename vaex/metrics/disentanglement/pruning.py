"""Latents that have collapsed: which ones they are, and the table without what they say."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError
from vaex.metrics.disentanglement.table import CodeTable, Floats, code_table

COLLAPSED = 0.05
"""Latents of a smaller standard deviation over all images carry nothing, and are left out."""
SMALL = 1e-20
"""A variance, relative to the square of a value, that rounding may leave in a latent that is constant."""


def variance(column: Floats, offset: Floats) -> float:
    """Return the variance, N - 1, of a latent ``column`` (N,) from its ``offset`` (N,) from the mean; 0 if constant."""
    squares = float(offset @ offset)
    constant = squares <= len(column) * SMALL * column[0] ** 2 and np.ptp(column) == 0
    return 0.0 if constant else squares / (len(column) - 1)


def varies_plainly(codes: Floats, threshold: float) -> NDArray[np.bool_]:
    """Tell of which latents (D,) an eighth of ``codes`` (N, D) shows that all vary by more than ``threshold``: fast.

    Squares from the mean of all add up to no less than those of a part from its own mean. Where the part is not enough,
    or its sums lose too many digits to tell, `variance` decides.
    """
    part = codes[::8]
    squares: Floats = np.einsum("nd,nd->d", part, part)
    spread = squares - part.sum(0) ** 2 / len(part)
    return np.asarray(spread > np.maximum(1e-6 * squares, 2 * threshold**2 * len(codes)))


def used_latents(variances: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return which latents of ``variances`` (D,) have not collapsed: they vary, by ``threshold`` or more.

    Raises:
        VaexError: for a threshold that is negative or not finite.
    """
    if not 0 <= threshold < math.inf:
        raise VaexError(f"threshold is a standard deviation of 0 or more, got {threshold}.")
    used: NDArray[np.bool_] = (np.sqrt(variances) >= threshold) & (variances > 0)
    return used


class Pruned(NamedTuple):
    """A table in which collapsed latents are 0 everywhere, and so tell nothing; ``used`` (D,) are the others."""

    table: CodeTable
    used: NDArray[np.bool_]

    def counted(self, name: str) -> dict[str, float]:
        """Return how many latents have collapsed, as ``<name>_pruned_latents``."""
        return {f"{name}_pruned_latents": float((~self.used).sum())}


def pruned_table(codes: Any, factors: Any, threshold: float = COLLAPSED) -> Pruned:
    """Return the table of ``codes`` (N, D) and ``factors`` (N, F), what collapsed latents say being taken from it.

    Collapsed is a latent of a standard deviation over all images below ``threshold``. A latent of zeros is to every
    metric a latent that is not there, and keeps its place in matrices.

    Raises:
        VaexError: as `code_table`; for a threshold out of range.
    """
    table = code_table(codes, factors)
    variances = np.full(table.codes.shape[1], np.inf)
    for latent in np.flatnonzero(~varies_plainly(table.codes, threshold)):
        column = table.codes[:, latent]
        variances[latent] = variance(column, column - column.mean())
    used = used_latents(variances, threshold)
    if not used.all():
        table.codes[:, ~used] = 0  # code_table has copied them
    return Pruned(table, used)
