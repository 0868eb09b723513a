"""The tables of `vaex bench what=faithfulness`: mean and spread over runs, and how the methods rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vaex.benchmarks.faithful import NORMAL
from vaex.benchmarks.pointing import Findings
from vaex.benchmarks.seeds import notes_of, over_seeds
from vaex.benchmarks.table import Table
from vaex.metrics.faithfulness import MEASURES

CONTROL = "control:"
DIRECTIONS = {**{name: measure.higher for name, measure in MEASURES.items()}, NORMAL: False}
"""Whether more is better, of each column in the order of the tables."""


def mean_over_seeds(findings: Sequence[Findings], row: str, weights: str, measure: str) -> float:
    """Return the mean over runs of the mean over latents; NaN where no run has a number."""
    runs = []
    for one in findings:
        values = one.rows.get(row, {}).get(weights, {}).get(measure, ())
        kept = [value for value in values if not math.isnan(value)]
        if kept:
            runs.append(sum(kept) / len(kept))
    return float(np.mean(runs)) if runs else math.nan


def mean_ranks(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each row's rank, 1 the best, averaged over the measures: row -> mean rank.

    ``values``: row -> measure -> number. Rows that tie share the mean of their places; a row without a number, such as
    a rectified map where it would have to add up, has the worst place of that measure, so that it gains nothing by it.
    A measure that no row has is left out.
    """
    ranks: dict[str, list[float]] = {row: [] for row in values}
    for measure, higher in DIRECTIONS.items():
        found = {row: columns.get(measure, math.nan) for row, columns in values.items()}
        if all(math.isnan(value) for value in found.values()):
            continue
        gains = {row: -math.inf if math.isnan(v) else v if higher else -v for row, v in found.items()}
        for row, gain in gains.items():
            better = sum(other > gain for other in gains.values())
            level = sum(other == gain for other in gains.values())
            place = len(gains) if math.isnan(found[row]) else better + (level + 1) / 2
            ranks[row].append(place)
    return {row: float(np.mean(places)) if places else math.nan for row, places in ranks.items()}


def faithfulness_tables(findings: Sequence[Findings], title: str = "Faithfulness") -> list[Table]:
    """Return the tables of the trained and of the untrained networks, best mean rank first, controls last.

    A measure that no row has is left out, and so is a table without rows.
    """
    rows = list(dict.fromkeys(row for one in findings for row in one.rows))
    values = {
        weights: {row: {name: mean_over_seeds(findings, row, weights, name) for name in DIRECTIONS} for row in rows}
        for weights in ("trained", "untrained")
    }
    names = [
        name
        for name in DIRECTIONS
        if any(not math.isnan(of[name]) for found in values.values() for of in found.values())
    ]
    arrows = [f"{name.replace('_', ' ')} {'^' if DIRECTIONS[name] else 'v'}" for name in names]
    tables = []
    for weights, found in values.items():
        ranks = mean_ranks({row: numbers for row, numbers in found.items() if not row.startswith(CONTROL)})
        order = sorted(rows, key=lambda row: (row.startswith(CONTROL), ranks.get(row, 0.0)))
        body = tuple(
            (
                row,
                f"{ranks[row]:.1f}" if row in ranks else "-",
                *(over_seeds(findings, row, weights, name) for name in names),
            )
            for row in order
        )
        notes = tuple(notes_of(findings)) if weights == "trained" else ()
        tables.append(Table(f"{title}, {weights}", ("map", "mean rank", *arrows), body, notes))
    return tables if rows else []
