"""Cells as text and csv, rows of a table of runs, and the picture."""

from __future__ import annotations

import csv
import io
import statistics

import numpy as np
import pytest

from tests.reporting.conftest import made
from vaex.intake import harmless_cell
from vaex.reporting.grid import Grid, cell_text, csv_text, picture, text_table
from vaex.reporting.groups import grouped
from vaex.reporting.seeds import seeds_grid
from vaex.reporting.summary import Summary, summarise


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (Summary(0.87, digits=2), "0.87"),
        (Summary(0.5, (0.5,), partial=(1, 2)), "0.500 (1 of 2)"),
        (Summary(2.0, (1.0, 3.0), 1.4142), "2.000 ± 1.414"),
        (Summary(2.0, (1.0, 3.0), 1.4142, -10.7, 14.7), "2.000 ± 1.414 [-10.700, 14.700]"),
    ],
)
def test_cells(cell: Summary | None, text: str) -> None:
    assert cell_text(cell, digits=3) == text


SCORES = {"own": (0.9, 0.8), "control": (0.5, 0.7)}
RUNS = [
    made("a", seed, {"loss": 1.0 + seed, **{f"aupro_{s}": v[seed] for s, v in SCORES.items()}}, score__name="own")
    for seed in (0, 1)
]


def test_every_score_has_its_row() -> None:
    grid = seeds_grid(grouped(RUNS)[0], "test", ["aupro", "loss"])
    assert grid.heads == ("experiment", "score", "seeds")
    assert grid.labels == (("a", "own", "2"), ("a", "control", "2"))
    for cells, score in zip(grid.cells, ("own", "control"), strict=True):
        assert cells[0] == summarise(SCORES[score])
    assert grid.cells[0][1] == summarise([1.0, 2.0])
    assert grid.cells[1][1] is None  # the loss is no score's


def test_without_controls_the_plain_names_are_read() -> None:
    runs = [made("a", 0, {"aupro": 0.9, "aupro_own": 0.9, "aupro_own/cut": 0.4}, score__name="own")]
    grid = seeds_grid(grouped(runs)[0], "test", ["aupro", "aupro/cut"], controls=False)
    assert grid.labels == (("a", "own", "1"),)
    assert [cell.mean for cell in grid.cells[0] if cell] == [0.9, 0.4]
    assert "One seed" in grid.notes[0]


def test_fewer_seeds_in_a_cell_are_told() -> None:
    runs = [made("a", 0, {"mig": 0.1, "sap": 0.1}), made("a", 1, {"mig": 0.3})]
    table = text_table(seeds_grid(grouped(runs)[0], "test", ["mig", "sap"], interval="none"), digits=2)
    assert table.rows == (("a", "2", "0.20 ± 0.14", "0.10 (1 of 2)"),)
    assert "(2 of 3): 2 of 3 runs measured it." in table.notes[0]


def test_csv_holds_every_number_in_full() -> None:
    grid = seeds_grid(grouped(RUNS)[0], "test", ["aupro"])
    rows = list(csv.DictReader(io.StringIO(csv_text([grid]))))
    assert [row["score"] for row in rows] == ["own", "control"]
    for row, values in zip(rows, SCORES.values(), strict=True):
        assert float(row["mean"]) == pytest.approx(statistics.mean(values), rel=1e-15)
        assert float(row["std"]) == pytest.approx(statistics.stdev(values), rel=1e-12)
        assert row["n"] == "2"
        assert (row["experiment"], row["column"]) == ("a", "aupro")


def test_csv_runs_no_formula() -> None:
    grid = Grid("t", ("experiment",), (('=HYPERLINK("http://x")',),), ("@m",), ((Summary(-1.0, (-1.0,)),),))
    (row,) = csv.DictReader(io.StringIO(csv_text([grid])))
    assert row["experiment"] == '\'=HYPERLINK("http://x")'
    assert row["column"] == "'@m"
    assert row["mean"] == "-1.0"
    assert harmless_cell("a=b") == "a=b"


def test_picture_has_a_panel_per_column_and_a_dot_per_seed() -> None:
    grid = seeds_grid(grouped(RUNS)[0], "test", ["aupro", "loss"])
    figure = picture([grid])
    assert [axis.get_xlabel() for axis in figure.axes] == ["aupro", "loss"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a, own", "a, control"]
    dots = [
        sorted(np.asarray(line.get_xdata(), float).tolist())
        for line in figure.axes[0].lines
        if line.get_marker() == "o"
    ]
    assert dots == [[0.8, 0.9], [0.5, 0.7]]


def test_picture_of_categories_has_a_colour_per_column() -> None:
    rows = (("nut",), ("all 15: mean of the published",))
    ours, theirs = Summary(0.9, (0.9,)), Summary(0.8, digits=2)
    grids = [Grid(name, ("category",), rows, ("own", "PaDiM"), ((ours, theirs), (None, theirs))) for name in "ab"]
    figure = picture(grids)
    assert [axis.get_xlabel() for axis in figure.axes] == ["a", "b"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["nut"]
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["own", "PaDiM"]
