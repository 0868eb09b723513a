"""One measure against another over set-ups: which points there are, and the picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vaex.errors import VaexError
from vaex.reporting.groups import Group, chosen_metrics
from vaex.reporting.results import Result
from vaex.reporting.seeds import cell
from vaex.reporting.summary import Summary
from vaex.reporting.units import unit_of
from vaex.viz import Dots, Mark, tradeoff_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def axis_of(name: str, stage: str, results: Sequence[Result]) -> tuple[str, str]:
    """Return (stage, measure) of the name of an axis: ``reconstruction`` of ``stage``, or ``val/reconstruction``.

    Raises:
        VaexError: for a measure that no run has.
    """
    first, slash, rest = name.partition("/")
    stage, metric = (first, rest) if slash and any(first in run.measures for run in results) else (stage, name)
    chosen_metrics(results, stage, [metric])
    return stage, metric


def marks_of(
    groups: Sequence[Group], x: tuple[str, str], y: tuple[str, str], interval: str, confidence: float
) -> dict[str, list[Mark]]:
    """Return the marks of each name: a group's means of x and y, with their intervals, or for "none" their spread.

    Where one key alone tells the groups of a name apart and it is a number, they stand in its order. A group that
    lacks one of the two measures has no mark.
    """
    series: dict[str, list[tuple[float, Mark]]] = {}
    for group in groups:
        found = [cell(group.runs, stage, metric, None, interval, confidence) for stage, metric in (x, y)]
        across, up = found
        if across is None or up is None:
            continue
        label = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in group.differing)
        mark = Mark(label, dots(across), dots(up))
        series.setdefault(group.name, []).append((order(group), mark))
    return {name: [mark for _, mark in sorted(marks, key=lambda pair: pair[0])] for name, marks in series.items()}


def order(group: Group) -> float:
    """Return the number that alone tells a group from its namesakes, else 0."""
    if len(group.differing) != 1:
        return 0.0
    try:
        return float(group.differing[0][1])
    except ValueError:
        return 0.0


def dots(found: Summary) -> Dots:
    """Return mean and reach of a cell: its interval, else a standard deviation to both sides, else nothing."""
    low, high = found.low, found.high
    if low is None and found.std is not None:
        low, high = found.mean - found.std, found.mean + found.std
    return Dots(found.mean, found.values, low, high)


def tradeoff_picture(
    groups: Sequence[Group], names: Sequence[str], stage: str, interval: str = "t", confidence: float = 0.95
) -> Figure:
    """Return the picture of one measure against another, ``names``; points along a swept number are joined.

    Raises:
        VaexError: when there are not two names, for a measure that no run has, and where no run has both.
    """
    if len(names) != 2:
        raise VaexError(f"plot=[X,Y] takes two measures, got {', '.join(names)}.")
    results = [run for group in groups for run in group.runs]
    x, y = (axis_of(name, stage, results) for name in names)
    members: dict[str, list[Group]] = {}
    for group in groups:
        members.setdefault(group.name, []).append(group)
    joined = [name for name, same in members.items() if len({order(group) for group in same}) == len(same) > 1]
    kinds = {"none": "standard deviation", "bootstrap": f"{confidence:.0%} bootstrap interval"}
    note = f"Means over seeds; bars: {kinds.get(interval, f'{confidence:.0%} interval of the mean')}"
    marks = marks_of(groups, x, y, interval, confidence)
    labels = [": ".join(axis) + (f", {unit}" if (unit := unit_of(axis[1])) else "") for axis in (x, y)]
    return tradeoff_figure(marks, labels[0], labels[1], note, joined)
