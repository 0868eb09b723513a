"""Cells with mean, spread and interval under named columns, and their way into text and csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaex.intake import harmless_cell
from vaex.reporting.summary import Summary
from vaex.reporting.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE = "-"


@dataclass(frozen=True)
class Grid:
    """``cells`` by row and column; ``heads`` name the columns of ``labels``, texts that say what a row is."""

    title: str
    heads: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Summary | None, ...], ...]
    notes: tuple[str, ...] = ()


def cell_text(cell: Summary | None, digits: int = 4) -> str:
    """Return ``mean ± std [low, high]``, as far as there is such; ``(2 of 3)`` where a run did not measure it."""
    if cell is None:
        return NONE
    places = digits if cell.digits is None else cell.digits
    text = f"{cell.mean:.{places}f}"
    if cell.std is not None:
        text += f" ± {cell.std:.{places}f}"
    if cell.low is not None and cell.high is not None:
        text += f" [{cell.low:.{places}f}, {cell.high:.{places}f}]"
    if cell.partial is not None:
        text += f" ({cell.partial[0]} of {cell.partial[1]})"
    return text


def text_table(grid: Grid, digits: int = 4) -> Table:
    """Return the grid as text."""
    rows = [
        (*label, *(cell_text(cell, digits) for cell in cells))
        for label, cells in zip(grid.labels, grid.cells, strict=True)
    ]
    return Table(grid.title, (*grid.heads, *grid.columns), tuple(rows), grid.notes, len(grid.heads))


def csv_text(grids: Sequence[Grid]) -> str:
    """Return one line per cell: table, labels, column, mean, std, low, high, runs (none if published), pixels.

    The last is the ``resolution``, height and width at which maps and masks were compared, of measures that count
    pixels. Numbers are written in full. Texts that a spreadsheet would take for a formula get an apostrophe in front.
    """
    heads = list(dict.fromkeys(head for grid in grids for head in grid.heads))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", *map(harmless_cell, heads), "column", "mean", "std", "low", "high", "n", "resolution"])
    for grid in grids:
        for label, cells in zip(grid.labels, grid.cells, strict=True):
            told = dict(zip(grid.heads, label, strict=True))
            for column, cell in zip(grid.columns, cells, strict=True):
                if cell is None:
                    continue
                numbers = [cell.mean, cell.std, cell.low, cell.high, len(cell.values) or None, cell.resolution]
                texts = [grid.title, *(told.get(head, "") for head in heads), column]
                writer.writerow([*map(harmless_cell, texts), *("" if n is None else repr(n) for n in numbers)])
    return stream.getvalue()


def picture(grids: Sequence[Grid]) -> Figure:
    """Return every seed as a dot: of one table a panel per column, of several a panel each and a colour per column.

    Lines without a run of ours are left out.
    """
    from vaex.viz import Dots, intervals_figure

    def dots(found: Summary | None) -> Dots | None:
        return None if found is None else Dots(found.mean, found.values, found.low, found.high)

    first = grids[0]
    rows = [n for n, cells in enumerate(first.cells) if any(found and found.digits is None for found in cells)]
    labels = [", ".join(text for text in first.labels[n] if not text.isdecimal()) for n in rows]
    by_column = [
        {column: [dots(grid.cells[n][position]) for n in rows] for position, column in enumerate(grid.columns)}
        for grid in grids
    ]
    if "seeds" in first.heads:
        return intervals_figure(labels, [(column, {"": entries}) for column, entries in by_column[0].items()])
    return intervals_figure(labels, [(grid.title, by) for grid, by in zip(grids, by_column, strict=True)])
