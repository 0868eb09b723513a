"""The tables of `vaex bench what=pointing`: mean and spread over runs of what `vaex.benchmarks.pointing` found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vaex.benchmarks.pointing import MEASURES, Findings
from vaex.benchmarks.table import Table


def over_seeds(findings: Sequence[Findings], row: str, weights: str, measure: str, factor: str | None = None) -> str:
    """Return mean and standard deviation over runs of the mean over latents, those of ``factor`` where one is given.

    Each run counts once, whatever its number of latents; runs without such a latent stay out.
    """
    runs = []
    for one in findings:
        values = one.rows.get(row, {}).get(weights, {}).get(measure, ())
        kept = [v for v, f in zip(values, one.latents.factors, strict=bool(values)) if factor in (None, f)]
        kept = [value for value in kept if not math.isnan(value)]
        if kept:
            runs.append(sum(kept) / len(kept))
    if not runs:
        return "-"
    mean = float(np.mean(runs))
    return f"{mean:.3f}" if len(runs) == 1 else f"{mean:.3f} +- {float(np.std(runs, ddof=1)):.3f}"


def pointing_tables(findings: Sequence[Findings]) -> list[Table]:
    """Return the table of all rows, and that of the energy inside by factor; mean +- standard deviation over runs."""
    rows = list(dict.fromkeys(row for one in findings for row in one.rows))
    names = [("trained", m) for m in MEASURES] + [("untrained", m) for m in MEASURES]
    columns = ("map", *(f"{measure.replace('_', ' ')}, {weights}" for weights, measure in names))
    body = tuple((row, *(over_seeds(findings, row, *name) for name in names)) for row in rows)
    factors = list(dict.fromkeys(factor for one in findings for factor in one.latents.factors))
    by_factor = tuple((row, *(over_seeds(findings, row, "trained", MEASURES[1], f) for f in factors)) for row in rows)
    return [
        Table("Factor-grounded pointing", columns, body, tuple(notes_of(findings))),
        Table("Energy inside by factor, trained", ("map", *factors), by_factor),
    ]


def notes_of(findings: Sequence[Findings]) -> list[str]:
    """Return in words which latents of each run were measured, and what was left out and why."""
    reasons = {row: reason for one in findings for row, reason in one.skipped.items()}
    return [_note(one) for one in findings] + [  # many rows lack the same thing
        f"Left out: {'; '.join(row for row, why in reasons.items() if why == reason)}. {reason}"
        for reason in dict.fromkeys(reasons.values())
    ]


def _note(one: Findings) -> str:
    kept = one.latents
    if not kept.numbers:
        return f"{one.name}: {one.images} images; maps of the whole code."
    if "-" in kept.factors:
        names = ", ".join(f"z{number}" for number in kept.numbers)
        return (
            f"{one.name}: {one.images} images; the most active latents: {names}; left out: {kept.collapsed} collapsed, "
            f"{kept.weak} less active."
        )
    pairs = ", ".join(f"z{n} {f} {s:.2f}" for n, f, s in zip(kept.numbers, kept.factors, kept.strengths, strict=True))
    return (
        f"{one.name}: {one.images} images; latents and the share of their variance that their factor explains: "
        f"{pairs}; left out: {kept.collapsed} collapsed, {kept.weak} weakly matched."
    )
