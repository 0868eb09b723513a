"""The algorithms of disentanglement_lib, rewritten, reading the same codes: what vaex's metrics are timed beside.

Each function takes codes (N, D) of the whole grid of factors ``sizes`` in order, or codes and factors of some images.
Where the library encodes new images for every vote, a code is looked up here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Grid(NamedTuple):
    """Codes (N, D) and factors (N, F) of every combination of factors, the last one varying fastest."""

    codes: Array
    factors: Array
    sizes: tuple[int, ...]


def _drawn(grid: Grid, count: int, generator: np.random.RandomState) -> Array:
    """Draw the factors (count, F) of images."""
    factors = np.zeros((count, len(grid.sizes)), np.int64)
    for place, size in enumerate(grid.sizes):
        factors[:, place] = generator.randint(size, size=count)
    return factors


def _codes_of(grid: Grid, factors: Array) -> Array:
    bases = np.prod(grid.sizes) / np.cumprod(grid.sizes)
    looked_up: Array = grid.codes[np.array(np.dot(factors, bases), dtype=np.int64)]
    return looked_up


def factor_vae_by_votes(grid: Grid, seed: int = 0, votes: tuple[int, int] = (10_000, 5_000), batch: int = 64) -> float:
    """FactorVAE score, one vote after the other."""
    generator = np.random.RandomState(seed)
    variances = np.var(_codes_of(grid, _drawn(grid, 10_000, generator)), axis=0, ddof=1)
    active = np.sqrt(variances) >= 0.05
    tables = []
    for count in votes:
        table = np.zeros((len(grid.sizes), int(active.sum())), np.int64)
        for _ in range(count):
            factor = generator.randint(len(grid.sizes))
            factors = _drawn(grid, batch, generator)
            factors[:, factor] = factors[0, factor]
            local = np.var(_codes_of(grid, factors), axis=0, ddof=1)
            table[factor, np.argmin(local[active] / variances[active])] += 1
        tables.append(table)
    meaning = np.argmax(tables[0], axis=0)
    return float(tables[1][meaning, np.arange(len(meaning))].sum() / tables[1].sum())


def beta_vae_by_points(grid: Grid, seed: int = 0, votes: tuple[int, int] = (10_000, 5_000), batch: int = 64) -> float:
    """beta-VAE score, one point after the other."""
    from sklearn.linear_model import LogisticRegression

    generator = np.random.RandomState(seed)
    parts = []
    for count in votes:
        points, labels = np.zeros((count, grid.codes.shape[1])), np.zeros(count, np.int64)
        for number in range(count):
            labels[number] = factor = generator.randint(len(grid.sizes))
            first, second = _drawn(grid, batch, generator), _drawn(grid, batch, generator)
            second[:, factor] = first[:, factor]
            points[number] = np.mean(np.abs(_codes_of(grid, first) - _codes_of(grid, second)), axis=0)
        parts.append((points, labels))
    model = LogisticRegression(max_iter=10_000).fit(*parts[0])
    return float(np.mean(model.predict(parts[1][0]) == parts[1][1]))


def _histogram(values: Array, bins: int = 20) -> Array:
    return np.stack([np.digitize(column, np.histogram(column, bins)[1][:-1]) for column in values.T])


def _information(codes: Array, factors: Array) -> Array:
    from sklearn.metrics import mutual_info_score

    discrete = _histogram(codes)
    return np.array([[mutual_info_score(factor, latent) for factor in factors.T] for latent in discrete])


def mig_by_pairs(codes: Array, factors: Array) -> float:
    """MIG with scikit-learn's mutual information, pair by pair."""
    from sklearn.metrics import mutual_info_score

    ordered = np.sort(_information(codes, factors), axis=0)[::-1]
    entropy = np.array([mutual_info_score(factor, factor) for factor in factors.T])
    return float(np.mean((ordered[0] - ordered[1]) / entropy))


def modularity_by_pairs(codes: Array, factors: Array) -> float:
    """Modularity with scikit-learn's mutual information, pair by pair."""
    squares = np.square(_information(codes, factors))
    best = squares.max(axis=1)
    spread = (squares.sum(axis=1) - best) / (np.where(best > 0, best, 1) * (squares.shape[1] - 1))
    return float(np.mean(np.where(best > 0, 1 - spread, 0)))


def irs_by_groups(codes: Array, factors: Array, quantile: float = 0.99) -> float:
    """IRS, value by value of each factor."""
    discrete = _histogram(factors.astype(np.float64))
    largest = np.max(np.abs(codes - codes.mean(axis=0)), axis=0)
    moved = np.zeros((codes.shape[1], factors.shape[1]))
    for place, column in enumerate(discrete):
        values = np.unique(column)
        for value in values:
            group = codes[column == value]
            moved[:, place] += np.percentile(np.abs(group - group.mean(axis=0)), 100 * quantile, axis=0)
        moved[:, place] /= len(values)
    return float(np.average((1 - moved / largest[:, None]).max(axis=1), weights=largest))
