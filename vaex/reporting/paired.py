"""Paired tests between set-ups that share seeds: the difference of each seed, and whether it could be chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vaex.errors import VaexError, unknown
from vaex.reporting.grid import Grid
from vaex.reporting.groups import Group
from vaex.reporting.results import Result
from vaex.reporting.seeds import lookup
from vaex.reporting.summary import Summary, summarise

EVERY_PAIR = "all"
EXACT = 16
"""Up to so many pairs with ties all 2^n signs are tried; without ties scipy's exact distribution serves up to 50."""
ROUNDING = 1e-12
"""Differences closer to one another, or to zero, than this share of the values' size differ by rounding alone."""

Key = int | str
KeyOf = Callable[[Result], Key | None]


def by_seed(run: Result) -> Key | None:
    """Return what makes a pair of two runs: their seed."""
    return run.seed


def by_category(run: Result) -> Key | None:
    """Return what makes a pair of two runs: their category, over whose seeds the mean is taken."""
    return run.category


def pairs_of(a: Group, b: Group, stage: str, metric: str, key_of: KeyOf = by_seed) -> list[tuple[float, float]]:
    """Return the values of ``metric`` in both groups for every key that both have, where they are finite.

    Several runs with the same key, the seeds of a category, are their mean over the seeds that both groups have.
    """
    found = []
    for key in sorted({key_of(run) for run in a.runs} & {key_of(run) for run in b.runs} - {None}, key=str):
        sides = [{run.seed: run for run in group.runs if key_of(run) == key} for group in (a, b)]
        seeds = sorted(sides[0].keys() & sides[1].keys(), key=str)
        values = [lookup([side[seed] for seed in seeds], stage, metric, None) for side in sides]
        both = [pair for pair in zip(*values, strict=False) if all(map(math.isfinite, pair))]
        if both and len(values[0]) == len(values[1]):
            found.append((math.fsum(x for x, _ in both) / len(both), math.fsum(y for _, y in both) / len(both)))
    return found


def t_test(differences: Sequence[float], size: float = 0.0) -> float | None:
    """Return the two-sided p of Student's paired test, in [0, 1]; None for fewer than two, or without any spread.

    ``size`` is the largest of the values that were subtracted, so that their rounding is not taken for spread.
    """
    if len(differences) < 2:
        return None
    least = _rounding(differences, size)
    if max(map(abs, differences)) <= least:
        return 1.0
    if max(differences) - min(differences) <= least:
        return None
    return float(stats.ttest_1samp(np.asarray(differences), 0.0).pvalue)


def _rounding(differences: Sequence[float], size: float) -> float:
    return ROUNDING * max([size, *map(abs, differences)])


def signed_rank_test(differences: Sequence[float], size: float = 0.0) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test, in [0, 1]; None for no pair at all.

    Pairs without a difference are left out. The p is exact up to 50 pairs, or 16 where differences tie; it is never
    below 2^(1 - n) of n pairs: five pairs cannot reach 0.05. ``size`` is that of `t_test`: what differs by rounding
    alone is equal, and ties.
    """
    if not differences:
        return None
    levels = _levels(np.asarray(differences, dtype=float), _rounding(differences, size))
    numbers = levels[levels != 0]
    if not len(numbers):
        return 1.0
    ranks = stats.rankdata(np.abs(numbers))
    if len(set(ranks)) == len(ranks) or len(numbers) > EXACT:
        exact = len(numbers) <= 50 and len(set(ranks)) == len(ranks)
        return float(stats.wilcoxon(numbers, method="exact" if exact else "approx").pvalue)
    centre = ranks.sum() / 2
    signs = np.array(list(itertools.product((0.0, 1.0), repeat=len(ranks))))
    away = np.abs(signs @ ranks - centre)
    return float(np.mean(away >= abs(ranks[numbers > 0].sum() - centre) - 1e-9))


def _levels(differences: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return whole numbers of the signs and the order of ``differences`` (n,): 0 for none, alike where they tie."""
    sizes = np.abs(differences)
    order = np.argsort(sizes)
    levels = np.empty(len(sizes))
    levels[order] = np.cumsum(np.diff(sizes[order], prepend=0.0) > least)
    return np.copysign(levels, differences)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for their number by Holm's method; None stays None and does not count."""
    order = sorted((p, position) for position, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, position) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[position] = largest
    return adjusted


def paired_grid(
    groups: Sequence[Group],
    stage: str,
    metrics: Sequence[str],
    against: str,
    *,
    unit: str = "seeds",
    interval: str = "t",
    confidence: float = 0.95,
) -> Grid:
    """Return the table of differences: a row for each pair of groups and metric that share two units or more.

    ``against`` is the label of the group that all others are compared with, or `EVERY_PAIR`. ``unit`` is "seeds" or
    "categories".

    Raises:
        VaexError: for a label that no group has, and when no two groups share two units.
    """
    labels = {group.label: group for group in groups}
    if against != EVERY_PAIR and against not in labels:
        raise unknown("experiment to compare with", against, [*labels, EVERY_PAIR])
    couples: Iterable[tuple[Group, Group]] = (
        [(b, a) for a, b in itertools.combinations(groups, 2)]
        if against == EVERY_PAIR
        else [(group, labels[against]) for group in groups if group is not labels[against]]
    )
    key_of = by_seed if unit == "seeds" else by_category
    rows = [
        (a.label, b.label, metric, [x - y for x, y in pairs], max(abs(value) for pair in pairs for value in pair))
        for a, b in couples
        for metric in metrics
        if len(pairs := pairs_of(a, b, stage, metric, key_of)) > 1
    ]
    if not rows:
        raise VaexError(
            f"No two experiments share two {unit} or more, so nothing can be compared; "
            f"train them with the same {unit}, or leave compare=null."
        )
    tests = [[t_test(*row[3:]) for row in rows], [signed_rank_test(*row[3:]) for row in rows]]
    columns = [tests[0], holm(tests[0]), tests[1], holm(tests[1])]
    cells = [
        (summarise(row[3], interval, confidence), *(p_cell(column[number]) for column in columns))
        for number, row in enumerate(rows)
    ]
    fewest = min(len(row[3]) for row in rows)
    notes = (
        f"Difference: experiment minus against, of the same {unit}: mean ± sample standard deviation"
        + (f" [{confidence:.0%} interval]." if interval != "none" else "."),
        f"p: two-sided, Student's paired t and Wilcoxon's signed ranks; Holm: adjusted for the {len(rows)} rows.",
        f"With {fewest} pairs Wilcoxon's p is never below {2.0 ** (1 - fewest):.3g}.",
    )
    return Grid(
        f"{stage}: paired differences over {unit}",
        ("experiment", "against", "measure", "pairs"),
        tuple((a, b, metric, str(len(found))) for a, b, metric, found, _ in rows),
        ("difference", "p (t)", "p (t, Holm)", "p (Wilcoxon)", "p (Wilcoxon, Holm)"),
        tuple(cells),
        notes,
    )


def p_cell(p: float | None) -> Summary | None:
    """Return a cell that shows two digits of a p value or more."""
    if p is None:
        return None
    return Summary(p, digits=4 if p >= 1e-3 or p == 0 else min(12, math.ceil(-math.log10(p)) + 1))
