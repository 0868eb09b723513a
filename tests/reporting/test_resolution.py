"""Numbers that count pixels are shown with the resolution at which maps and masks were compared."""

from __future__ import annotations

import csv
import io

import pytest

from tests.reporting.conftest import made
from vaex.metrics.evidence import PIXEL_KEYS
from vaex.reporting.categories import category_grid
from vaex.reporting.grid import csv_text
from vaex.reporting.groups import grouped
from vaex.reporting.resolution import counts_pixels, measured_at, resolution_of, resolution_sentence
from vaex.reporting.scores import MEASURES
from vaex.reporting.seeds import seeds_grid

PIXELS = {"aupro": 0.9, "aupro_own": 0.9, "image_auroc": 0.8, "image_auroc_own": 0.8}


def test_which_measures_count_pixels() -> None:
    counting = {*PIXEL_KEYS, "aupimo"}
    assert {name for name in MEASURES if counts_pixels(name)} == counting
    for name in counting:
        assert counts_pixels(f"{name}_padim/cut")
        assert counts_pixels(f"{name}/cut")
    assert not counts_pixels("pixel_loss")


@pytest.mark.parametrize(
    ("config", "side"),
    [
        ({"metrics.resolution": 256, "data.size": 512}, 256),
        ({"metrics.resolution": None, "data.size": 64}, 64),
        ({"data.size": "64"}, None),
        ({}, None),
    ],
)
def test_the_key_comes_before_the_size_of_the_images(config: dict[str, object], side: int | None) -> None:
    assert resolution_of(config) == side


def test_sentences() -> None:
    assert "at 64 pixels a side." in resolution_sentence([("a", 64), ("b", 64), ("c", None)])
    assert resolution_sentence([("a", 256), ("b", 64), ("a", 256)]).endswith("at 64 (b), at 256 (a).")
    assert resolution_sentence([("a", None)]) == ""
    assert measured_at(64, ["loss", "image_auroc"]) == ""
    assert "64" in measured_at(64, ["loss", "aupro_padim"])


def test_tables_say_it_in_their_notes_and_the_csv_in_every_line() -> None:
    runs = [made("a", 0, PIXELS, score__name="own", data__size=64)]
    runs += [made("b", 0, PIXELS, score__name="own", data__size=64, metrics__resolution=256)]
    grid = seeds_grid(grouped(runs)[0], "test", ["aupro", "image_auroc"])
    assert "at 64 (a), at 256 (b)" in " ".join(grid.notes)
    rows = list(csv.DictReader(io.StringIO(csv_text([grid]))))
    found = [(row["experiment"], row["column"], row["resolution"]) for row in rows]
    assert found == [("a", "aupro", "64"), ("a", "image_auroc", ""), ("b", "aupro", "256"), ("b", "image_auroc", "")]


def test_published_figures_state_none() -> None:
    keys = {"score__name": "own", "data__category": "bottle", "data__size": 64}
    groups = grouped([made("m_bottle", 0, {"pixel_auroc": 0.9, "pixel_auroc_own": 0.9}, **keys)])[0]
    grid = category_grid(groups, "test", "pixel_auroc", published=["PaDiM"])
    rows = list(csv.DictReader(io.StringIO(csv_text([grid]))))
    assert {(row["column"], row["resolution"]) for row in rows} == {("own", "64"), ("PaDiM", "")}
