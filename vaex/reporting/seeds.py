"""The table of runs: one row per group of runs and score, one column per measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vaex.reporting.grid import Grid
from vaex.reporting.groups import Group, scores_measured
from vaex.reporting.resolution import counts_pixels, resolution_of, resolution_sentence
from vaex.reporting.results import Result, measured, values_of
from vaex.reporting.scores import chosen_score, scored_measure
from vaex.reporting.summary import Summary, summarise


def lookup(runs: Sequence[Result], stage: str, metric: str, score: str | None) -> list[float]:
    """Return a measure of each run: that of ``score``, or for None the one under its plain name.

    ``metric`` may name a kind of defect, as ``pixel_auroc/scratch``.
    """
    measure, slash, kind = metric.partition("/")
    if score is None and slash:
        return [value for run in runs for value in lookup([run], stage, metric, chosen_score(run.config) or "")]
    return values_of(runs, stage, metric if score is None else f"{measure}_{score}{slash}{kind}")


def cell(
    runs: Sequence[Result], stage: str, metric: str, score: str | None, interval: str, confidence: float
) -> Summary | None:
    """Return mean, spread and interval of a measure over runs; None where no run has it."""
    found = over_runs(lookup(runs, stage, metric, score), interval, confidence)
    return at_resolution(found, metric, common_resolution(runs))


def over_runs(values: Sequence[float], interval: str, confidence: float) -> Summary | None:
    """Return the summary of a value per run, with how many there were where some are not finite."""
    found = summarise(values, interval, confidence)
    if found is None or len(found.values) == len(values):
        return found
    return replace(found, partial=(len(found.values), len(values)))


def at_resolution(cell: Summary | None, metric: str, side: int | None) -> Summary | None:
    """Return the cell with the pixels a side that it was measured at, where ``metric`` counts pixels."""
    return replace(cell, resolution=side) if cell is not None and counts_pixels(metric) else cell


def seeds_grid(
    groups: Sequence[Group],
    stage: str,
    metrics: Sequence[str],
    *,
    controls: bool = True,
    interval: str = "t",
    confidence: float = 0.95,
) -> Grid:
    """Return the table of ``groups``; with ``controls`` every score that was measured has its own row.

    What does not depend on a score, such as the loss, stands in the first row of a group.
    """
    own = {pair[0] for group in groups for name in measured(group.runs, stage) if (pair := scored_measure(name))}
    by_score = [metric for metric in metrics if metric.partition("/")[0] in own]
    labels: list[tuple[str, ...]] = []
    rows: list[tuple[Summary | None, ...]] = []
    for group in groups:
        scores = scores_measured(group.runs, stage) if controls and by_score else []
        for number, score in enumerate(scores or [None]):
            chosen = score if score is not None else ", ".join(sorted(scores_chosen(group)))
            labels.append((group.label, *([chosen] if own else []), str(len(group.runs))))
            rows.append(
                tuple(
                    cell(group.runs, stage, metric, score if metric in by_score else None, interval, confidence)
                    if metric in by_score or number == 0
                    else None
                    for metric in metrics
                )
            )
    heads = ("experiment", *(["score"] if own else []), "seeds")
    notes = [explained(rows, interval, confidence), *(resolution_note(groups) if by_score else [])]
    if controls and by_score:
        notes.append("The first score of an experiment is its own; the others are measured beside it.")
    title = f"{stage}: mean and spread over seeds"
    return Grid(title, heads, tuple(labels), tuple(metrics), tuple(rows), tuple(notes))


def scores_chosen(group: Group) -> set[str]:
    """Return the names of the scores that the runs of a group were made with."""
    return {score for run in group.runs if (score := chosen_score(run.config)) is not None}


def explained(rows: Sequence[Sequence[Summary | None]], interval: str, confidence: float) -> str:
    """Return in words what a cell holds."""
    cells = [found for row in rows for found in row if found is not None]
    partial = " (2 of 3): 2 of 3 runs measured it." if any(found.partial for found in cells) else ""
    if not any(found.std is not None for found in cells):
        return f"One seed each: no spread is known.{partial}"
    kinds: Mapping[str, str] = {
        "t": f"[{confidence:.0%} interval of the mean, Student's t]",
        "bootstrap": f"[{confidence:.0%} interval of the mean, percentile bootstrap, too narrow for few seeds]",
    }
    return " ".join(["Mean ± sample standard deviation over seeds", kinds.get(interval, "")]).strip() + f".{partial}"


def resolution_note(groups: Sequence[Group]) -> list[str]:
    """Return the sentence that says at how many pixels maps and masks were compared, where the configs state it."""
    told = resolution_sentence((group.label, resolution_of(run.config)) for group in groups for run in group.runs)
    return [told] if told else []


def common_resolution(runs: Sequence[Result]) -> int | None:
    """Return the pixels a side at which all ``runs`` compared maps and masks, None where they differ or do not say."""
    sides = {resolution_of(run.config) for run in runs}
    return sides.pop() if len(sides) == 1 else None
