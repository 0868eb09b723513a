"""The table of MVTec AD: categories in rows, methods and published figures in columns, and means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vaex.reporting.grid import Grid
from vaex.reporting.groups import Group, scores_measured
from vaex.reporting.published import ALL, Published, kinds_of_category, published_columns
from vaex.reporting.results import Result
from vaex.reporting.seeds import (
    at_resolution,
    common_resolution,
    explained,
    lookup,
    over_runs,
    resolution_note,
    scores_chosen,
)
from vaex.reporting.summary import Summary, summarise

SHOWN = ("expVAE", "AE (SSIM)", "AE (L2)", "VAE-grad", "FAVAE", "PaDiM", "PatchCore")
"""Published methods that stand beside ours unless others are named."""

CATEGORY = "data.category"
PUBLISHED_ROW = "all 15: mean of the published"

MEANS_ARE_OURS = (
    "Means of published columns are ours, of the figures by category, and may differ from the mean that a paper "
    "prints; where no figures by category are known, the last row has the printed mean."
)


@dataclass(frozen=True)
class Column:
    """A method of ours: its runs by category, and the score that is read."""

    name: str
    runs: Mapping[str, tuple[Result, ...]]
    score: str | None


def method_columns(groups: Sequence[Group], stage: str, controls: bool) -> list[Column]:
    """Return a column for every group, with ``controls`` for every score of it."""
    columns = []
    for group in groups:
        runs: dict[str, tuple[Result, ...]] = {}
        for run in group.runs:
            if run.category is not None:
                runs[run.category] = (*runs.get(run.category, ()), run)
        scores: list[str | None] = [*scores_measured(group.runs, stage)] if controls else []
        label = group.label if len(groups) > 1 or controls is False else ""
        for score in scores or [None]:
            told = score if score is not None else ", ".join(sorted(scores_chosen(group)))
            columns.append(Column(": ".join(part for part in (label, told) if part) or group.label, runs, score))
    return columns


def category_grid(
    groups: Sequence[Group],
    stage: str,
    metric: str,
    *,
    controls: bool = True,
    published: bool | Sequence[str] | None = None,
    interval: str = "t",
    confidence: float = 0.95,
) -> Grid:
    """Return the table of one measure. Means are over the categories at hand, of published columns over the same.

    The mean of a method is that of its seeds' means where every category has the same seeds, else that of its
    categories' means, without spread. Categories of the fifteen without a run are named below the table.
    ``published`` is True for `SHOWN`, a list of methods, or None.
    """
    columns = method_columns(groups, stage, controls)
    kinds = kinds_of_category()
    at_hand = {run.category for group in groups for run in group.runs if run.category is not None}
    categories = [name for name in kinds if name in at_hand] + sorted(at_hand - set(kinds))
    values = [
        {name: lookup(column.runs.get(name, ()), stage, metric, column.score) for name in categories}
        for column in columns
    ]
    known = [bool(any(summarise(found, "none") for found in by_name.values())) for by_name in values]
    if any(known):  # a score without a map has no pixel measures
        columns = [column for column, kept in zip(columns, known, strict=True) if kept]
        values = [found for found, kept in zip(values, known, strict=True) if kept]
    theirs = chosen_columns(metric, published)
    sides = [common_resolution([run for runs in column.runs.values() for run in runs]) for column in columns]

    def measured_here(cells: Iterable[Summary | None]) -> list[Summary | None]:
        return [at_resolution(found, metric, side) for found, side in zip(cells, sides, strict=True)]

    labels: list[tuple[str, ...]] = []
    rows: list[tuple[Summary | None, ...]] = []
    for name in categories:
        labels.append((name,))
        ours = (over_runs(found[name], interval, confidence) for found in values)
        rows.append((*measured_here(ours), *(column.cells.get(name) for column in theirs)))
    for title, kind, whole in (("textures", "texture", 5), ("objects", "object", 10), ("all", None, 15)):
        members = [name for name in categories if kind is None or kinds.get(name) == kind]
        if members and (kind is not None or len(categories) > 1):
            labels.append((f"mean of {_counted(title, len(members), whole)}",))
            over = (
                mean_over(column, found, members, interval, confidence) for column, found in _pairs(columns, values)
            )
            rows.append((*measured_here(over), *(published_mean(column, members) for column in theirs)))
    if theirs:
        labels.append((PUBLISHED_ROW,))
        rows.append((*(None for _ in columns), *(published_mean(column, list(kinds)) for column in theirs)))
    notes = _notes(groups, categories, rows, interval, confidence)
    own = sorted({score for group in groups for score in scores_chosen(group)})
    if controls and own and len(columns) > len(groups):
        notes.append(f"The runs' own score: {', '.join(own)}; the others are measured beside it.")
    names = (*(column.name for column in columns), *(column.method for column in theirs))
    sources = [f"{column.method}: {column.source}." for column in theirs]
    if any(len(column.cells) > 1 for column in theirs):
        notes.append(MEANS_ARE_OURS)
    return Grid(f"MVTec AD, {stage}: {metric}", ("category",), tuple(labels), names, tuple(rows), (*notes, *sources))


def chosen_columns(metric: str, published: bool | Sequence[str] | None) -> list[Published]:
    """Return the published columns for a measure: True stands for `SHOWN`, False and None for none."""
    if published is None or published is False:
        return []
    return published_columns(metric, SHOWN if published is True else published)


def _pairs(
    columns: Sequence[Column], values: Sequence[Mapping[str, list[float]]]
) -> list[tuple[Column, Mapping[str, list[float]]]]:
    return list(zip(columns, values, strict=True))


def _counted(title: str, count: int, whole: int) -> str:
    return f"{title} ({count})" if count >= whole else f"{title} ({count} of {whole})"


def mean_over(
    column: Column,
    values: Mapping[str, Sequence[float]],
    categories: Sequence[str],
    interval: str,
    confidence: float,
) -> Summary | None:
    """Return the mean over categories: of each seed where all have the same seeds, else without spread.

    A seed that lacks a category does not count where another has all.

    None where a category has no value: a mean over fewer would be compared with one over more.
    """
    cells = [over_runs(values[name], "none", confidence) for name in categories]
    known = [found for found in cells if found is not None]
    if len(known) < len(categories):
        return None
    seeds = [[run.seed for run in column.runs.get(name, ())] for name in categories]
    if None not in seeds[0] and all(found == seeds[0] for found in seeds):
        by_seed = zip(*(values[name] for name in categories), strict=True)
        found = over_runs([sum(row) / len(row) for row in by_seed], interval, confidence)
        if found is not None:  # else no seed measured all categories
            return found
    counts = sum(len(found.values) for found in known), sum(len(values[name]) for name in categories)
    partial = counts if counts[0] < counts[1] else None
    return Summary(sum(found.mean for found in known) / len(known), partial=partial)


def published_mean(column: Published, categories: Sequence[str]) -> Summary | None:
    """Return our mean of published figures over categories; of all fifteen the printed mean where no others are known.

    It is rounded to three decimals: the figures have two or three.
    """
    cells = [column.cells[name] for name in categories if name in column.cells]
    if cells and len(cells) == len(categories):
        return Summary(round(sum(found.mean for found in cells) / len(cells), 3), digits=3)
    return column.cells.get(ALL) if set(categories) >= set(kinds_of_category()) else None


def _notes(
    groups: Sequence[Group],
    categories: Sequence[str],
    rows: Sequence[Sequence[Summary | None]],
    interval: str,
    confidence: float,
) -> list[str]:
    counts = {
        sum(run.category == name for run in group.runs)
        for group in groups
        for name in {run.category for run in group.runs}
    }
    several = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts, default=0))
    notes = [f"Seeds per category: {several}. {explained(rows, interval, confidence)}"]
    absent = [name for name in kinds_of_category() if name not in categories]
    if absent:
        notes.append(f"No run of {', '.join(absent)}: left out, here and in the means of published columns.")
    notes += resolution_note(groups)
    return notes
