"""What latents tell about factors in nats: mutual information, the gap of it (MIG), and modularity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vaex.errors import VaexError
from vaex.metrics.disentanglement.pruning import COLLAPSED, Pruned, pruned_table
from vaex.metrics.disentanglement.table import (
    TEST,
    TRAIN,
    CodeTable,
    Floats,
    Integers,
    code_table,
    drawn,
    is_whole,
    sample,
)

BINS = 20
NOTHING = 1e-12
"""Nats."""
NEAR = 1e-6
"""Bins; codes so near to an edge are compared with the edge itself."""


def binned(codes: Floats, bins: int = BINS) -> Integers:
    """Return the bin 0..bins-1 of each code (N, D), the range of each latent cut into equal parts.

    A value on an edge belongs to the bin above it; a latent that is constant has one bin in use.
    """
    if not is_whole(bins, 1):
        raise VaexError(f"bins must be a whole number, at least 1, got {bins!r}.")
    found = np.empty(codes.shape, np.int64, order="F")
    for place, column in enumerate(codes.T):
        low, high = float(column.min()), float(column.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.arange(bins + 1.0) * ((high - low) / bins) + low  # as numpy's histogram has them
        position = (column - low) * (bins / (high - low))
        bin_of = found[:, place]
        bin_of[:] = position  # cut off
        np.minimum(bin_of, bins - 1, out=bin_of)
        near = np.flatnonzero(np.abs(position - np.rint(position)) < NEAR)  # where rounding might cross an edge
        bin_of[near] = np.searchsorted(edges[1:-1], column[near], side="right")
    return found


def counted_together(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Return the factors of ``sizes`` in groups of at most ``limit`` combinations of values; a larger one is alone."""
    groups: list[list[int]] = []
    for factor in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        for group in groups:
            if math.prod(sizes[place] for place in [*group, factor]) <= limit:
                group.append(factor)
                break
        else:
            groups.append([factor])
    return groups


def _joint_counts(bins_of: Integers, classes: Integers) -> Iterator[tuple[int, Integers]]:
    """Give factors in any order, each with how often its values and the bins of each latent meet (D, values, bins)."""
    bins, factors = ([np.ascontiguousarray(column) for column in part.T] for part in (bins_of, classes))
    height, sizes = int(bins_of.max()) + 1, [int(column.max()) + 1 for column in factors]
    # Counting costs more than adding up: of several factors at once, while their table is smaller than the images' list
    for group in counted_together(sizes, len(bins_of) // (2 * height)):
        shape, number = [sizes[factor] for factor in group], factors[group[0]]
        for factor in group[1:]:
            number = number * sizes[factor] + factors[factor]
        number = number * height
        cells = math.prod(shape) * height
        tables = np.stack([np.bincount(number + place, minlength=cells) for place in bins]).reshape(-1, *shape, height)
        for axis, factor in enumerate(group, 1):
            yield factor, tables.sum(tuple(other for other in range(1, len(group) + 1) if other != axis))


def mutual_information(bins_of: Integers, classes: Integers) -> Floats:
    """Return the mutual information (D, F) in nats of discrete latents (N, D) and factors (N, F), as in the table."""
    total = len(bins_of)
    logs = np.arange(total + 1, dtype=np.float64)
    logs[1:] *= np.log(logs[1:])  # n log n of every count that can occur
    found = np.empty((bins_of.shape[1], classes.shape[1]))
    for factor, joint in _joint_counts(bins_of, classes):
        alone = logs[joint.sum(1)].sum(1) + logs[joint[0].sum(1)].sum()  # of the latents, and of the factor
        found[:, factor] = logs[joint].sum((1, 2)) - alone
    found /= total
    found += np.log(total)
    found[found < NOTHING] = 0  # what rounding leaves where there is none
    return found


def _entropy(counts: Integers) -> float:
    """Return the entropy in nats of what occurred ``counts`` times."""
    some = counts[counts > 0].astype(np.float64)
    total = some.sum()
    return float(np.log(total) - some @ np.log(some) / total)


def information_of(table: CodeTable, bins: int = BINS) -> Floats:
    """Return the mutual information (D, F) in nats of the binned latents and the factors of a table."""
    return mutual_information(binned(table.codes, bins), table.classes)


def information_matrix(codes: Any, factors: Any, seed: int = 0, *, train: int = TRAIN, bins: int = BINS) -> Floats:
    """Return the mutual information (D, F) in nats of latents and factors, estimated as `mig` does, of all latents.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`.
    """
    return information_of(sample(code_table(codes, factors), seed, train), bins)


def gaps(information: Floats, classes: Integers) -> Floats:
    """Return, per factor (F,), by how much its best latent tells more than the second best, of the factor's entropy."""
    ordered = np.sort(information, 0)
    entropy = np.array([_entropy(np.bincount(column)) for column in classes.T])
    gap: Floats = (ordered[-1] - ordered[-2]) / entropy
    return gap


def modularities(information: Floats) -> Floats:
    """Return, per latent (D,), how nearly it tells of one factor alone, in [0, 1]; 0 where it tells of none."""
    squares = information**2
    best = squares.max(1)
    others = squares.sum(1) - best
    count = squares.shape[1] - 1
    spread = np.divide(others, best * count, out=np.zeros_like(best), where=best * count > 0)
    return np.where(best > 0, 1 - spread, 0.0)


def mig(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the mutual information gap of ``codes`` (N, D) and ``factors`` (N, F), in [0, 1]; see `mig_scores`.

    Raises:
        VaexError: as `mig_scores`.
    """
    return mig_scores(codes, factors, seed)["mig"]


def mig_scores(
    codes: Any, factors: Any, seed: int = 0, *, train: int = TRAIN, bins: int = BINS, threshold: float = COLLAPSED
) -> dict[str, float]:
    """Return ``mig``, ``mig_<k>``, the gap of factor k alone, and ``mig_pruned_latents``.

    Mutual information of each latent, cut into ``bins`` equal parts of its range, and each factor, over ``train``
    images; of a factor, the gap between the two best latents as a share of its entropy; the mean over factors. With 20
    bins perfect codes of factors of more values stay below 1: .896 on dSprites. Latents with a standard deviation
    below ``threshold`` tell nothing, and are counted.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`.

    Source: Chen et al., "Isolating Sources of Disentanglement in VAEs", NeurIPS 2018, section 4.1; the estimate by
    histogram is that of disentanglement_lib.
    Differs: the library leaves no latent out; one of noise alone, however small, changes the gap little, but one that
    tells of a factor in values too small to be decoded counted as much as any other.
    """
    pruned = pruned_table(codes, factors, threshold)
    part = sample(pruned.table, seed, train)
    gap = gaps(information_of(part, bins), part.classes)
    each = {f"mig_{place}": float(value) for place, value in enumerate(gap)}
    return {"mig": float(gap.mean()), **each, **pruned.counted("mig")}


def modularity(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the modularity of ``codes`` (N, D) and ``factors`` (N, F), in [0, 1]; see `modularity_scores`.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`.
    """
    return _modularity(pruned_table(codes, factors), seed, TRAIN, BINS)


def _modularity(pruned: Pruned, seed: int, train: int, bins: int) -> float:
    each = modularities(information_of(sample(pruned.table, seed, train), bins))[pruned.used]
    return float(each.mean()) if len(each) else 0.0


def modularity_scores(
    codes: Any,
    factors: Any,
    seed: int = 0,
    *,
    train: int = TRAIN,
    test: int = TEST,
    bins: int = BINS,
    threshold: float = COLLAPSED,
) -> dict[str, float]:
    """Return ``modularity``, ``explicitness`` on ``test`` other images, ``explicitness_train``, and a count of latents.

    Modularity: 1 less the squared mutual information with other factors than a latent's best, relative to the best;
    the mean over latents with a standard deviation of ``threshold`` or more, 0 where all are collapsed. A latent of no
    information counts 0. Explicitness: area under the ROC curve of a logistic regression of each factor on the
    standardised codes of these latents, mean over classes (one against the rest), then over factors; chance is .5.
    The other latents are counted as ``modularity_pruned_latents``.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`; for so few images that a factor cannot be judged.

    Source: Ridgeway & Mozer, "Learning Deep Disentangled Embeddings with the F-Statistic Loss", NeurIPS 2018, as in
    disentanglement_lib.
    Differs: scikit-learn's multinomial regression, where the library's release of it fitted one class against the rest;
    classes that do not occur among the images judged are left out of the mean; collapsed latents take no part.
    """
    from vaex.metrics.disentanglement.predictors import explicitness

    pruned = pruned_table(codes, factors, threshold)
    on_train, on_test = explicitness(drawn(pruned.table, seed, train, test))
    return {
        "modularity": _modularity(pruned, seed, train, bins),
        "explicitness": on_test,
        "explicitness_train": on_train,
        **pruned.counted("modularity"),
    }
