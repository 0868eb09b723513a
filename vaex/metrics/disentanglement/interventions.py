"""IRS: how little a latent moves when other factors than its own change."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vaex.errors import VaexError
from vaex.metrics.disentanglement.information import BINS, binned
from vaex.metrics.disentanglement.pruning import COLLAPSED, pruned_table
from vaex.metrics.disentanglement.table import TRAIN, Floats, Integers, sample

QUANTILE = 0.99


class Robustness(NamedTuple):
    """Robustness (D, F) of each latent to changes of all factors but one, and the largest deviation (D,) of each."""

    matrix: Floats
    deviations: Floats


def robustness(codes: Floats, classes: Integers, quantile: float = QUANTILE) -> Robustness:
    """Return the robustness of latents (N, D), none of them constant, given each factor of ``classes`` (N, F)."""
    largest = np.abs(codes - codes.mean(0)).max(0)
    moved = np.empty((codes.shape[1], classes.shape[1]))
    for factor, column in enumerate(classes.T):
        order = np.argsort(column, kind="stable")
        bounds = np.flatnonzero(np.diff(column[order])) + 1
        groups = [np.abs(part - part.mean(0)) for part in np.split(codes[order], bounds)]
        moved[:, factor] = np.mean([np.quantile(group, quantile, axis=0) for group in groups], 0)
    return Robustness(1 - moved / largest[:, None], largest)


def irs(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the interventional robustness score of ``codes`` (N, D) and ``factors`` (N, F), in [0, 1].

    Raises:
        VaexError: as `irs_scores`.
    """
    return irs_scores(codes, factors, seed)["irs"]


def irs_scores(
    codes: Any,
    factors: Any,
    seed: int = 0,
    *,
    train: int = TRAIN,
    bins: int = BINS,
    quantile: float = QUANTILE,
    threshold: float = COLLAPSED,
) -> dict[str, float]:
    """Return ``irs``, and how many latents are in use: ``irs_active_latents`` and ``irs_pruned_latents``.

    Of images that share the value of one factor (in ``bins`` equal parts of its range), the ``quantile`` of how far a
    latent lies from its mean over them; the mean over values, relative to the largest deviation over all images. A
    latent's robustness is 1 less that, for the factor of which it is best; the mean over latents is weighted by their
    largest deviation. Latents with a standard deviation below ``threshold`` take no part; where all are collapsed the
    score is 0.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`; for a quantile outside [0, 1].

    Source: Suter et al., "Robustly Disentangled Causal Mechanisms", ICML 2019, as in disentanglement_lib.
    Differs: the library leaves out latents that are constant, and no others.
    """
    if not 0 <= quantile <= 1:
        raise VaexError(f"quantile of irs must be in [0, 1], got {quantile}.")
    pruned = pruned_table(codes, factors, threshold)
    part = sample(pruned.table, seed, train)
    counts = {"irs_active_latents": float(pruned.used.sum()), **pruned.counted("irs")}
    active = np.ptp(part.codes, 0) > 0  # one that varies may stand still among the images drawn
    if not active.any():
        return {"irs": 0.0, **counts}
    found = robustness(part.codes[:, active], binned(part.classes.astype(np.float64), bins), quantile)
    score = float(np.average(found.matrix.max(1), weights=found.deviations))
    return {"irs": score, **counts}
