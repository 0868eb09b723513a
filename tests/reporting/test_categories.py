"""Means over categories by hand, published figures against the means that others printed."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from tests.reporting.conftest import made
from vaex.data.mvtec import CATEGORIES, TEXTURES
from vaex.errors import VaexError
from vaex.reporting.categories import category_grid
from vaex.reporting.grid import Grid, text_table
from vaex.reporting.groups import Group, grouped
from vaex.reporting.published import kinds_of_category, published_columns
from vaex.reporting.results import Result
from vaex.reporting.summary import Summary


def runs_of(categories: tuple[str, ...], seeds: tuple[int, ...]) -> list[Result]:
    """Return runs whose AUROC is hash-like but known: category and seed decide it."""
    return [made(f"m_{c}", s, value(c, s), data__category=c, score__name="own") for c in categories for s in seeds]


def value(category: str, seed: int) -> dict[str, float]:
    number = (len(category) * 7 + seed * 3 + ord(category[0])) % 20 / 100
    return {"pixel_auroc": 0.8 + number, "pixel_auroc_own": 0.8 + number, "pixel_auroc_control": 0.5}


def groups_of(runs: list[Result]) -> list[Group]:
    return grouped(runs, across=["data.category"])[0]


def row(grid: Grid, name: str) -> dict[str, Summary | None]:
    (position,) = (n for n, label in enumerate(grid.labels) if label[0].startswith(name))
    return dict(zip(grid.columns, grid.cells[position], strict=True))


def test_means_of_all_fifteen() -> None:
    grid = category_grid(groups_of(runs_of(CATEGORIES, (0, 1, 2))), "test", "pixel_auroc", published=True)
    assert [label[0] for label in grid.labels[:15]] == list(CATEGORIES)
    assert [label[0] for label in grid.labels[15:]] == [
        "mean of textures (5)",
        "mean of objects (10)",
        "mean of all (15)",
        "all 15: mean of the published",
    ]
    for name, members in (("mean of all", CATEGORIES), ("mean of textures", TEXTURES)):
        by_seed = [statistics.mean(value(c, s)["pixel_auroc"] for c in members) for s in (0, 1, 2)]
        found = row(grid, name)["own"]
        assert found is not None
        assert found.values == pytest.approx(by_seed)
        assert found.mean == pytest.approx(statistics.mean(by_seed))
        assert found.std == pytest.approx(statistics.stdev(by_seed))
    assert "No run of" not in " ".join(grid.notes)
    assert any("may differ from the mean that a paper prints" in note for note in grid.notes)
    last = dict(zip(grid.columns, grid.cells[-1], strict=True))
    for method, mean in (("PaDiM", 0.979), ("PatchCore", 0.980), ("FAVAE", 0.953)):  # papers print .975 and .981
        found = last[method]
        assert found is not None
        assert found.mean == mean  # not 0.9788666666666664
    assert grid.columns[:2] == ("own", "control")


def test_absent_categories_are_named_and_left_out_everywhere() -> None:
    grid = category_grid(groups_of(runs_of(("bottle", "wood"), (0,))), "test", "pixel_auroc", published=["expVAE"])
    assert [label[0] for label in grid.labels] == [
        "wood",
        "bottle",
        "mean of textures (1 of 5)",
        "mean of objects (1 of 10)",
        "mean of all (2 of 15)",
        "all 15: mean of the published",
    ]
    printed = category_grid(groups_of(runs_of(("bottle",), (0,))), "test", "pixel_auroc", published=["FAVAE"])
    assert not any("may differ" in note for note in printed.notes)  # its mean alone is known, and printed so
    theirs = row(grid, "mean of all (2 of 15)")["expVAE"]
    assert theirs is not None
    assert theirs.mean == pytest.approx((0.77 + 0.87) / 2)
    (note,) = (note for note in grid.notes if note.startswith("No run of"))
    assert all(name in note for name in CATEGORIES if name not in ("bottle", "wood"))
    assert "bottle" not in note


def test_seeds_that_differ_between_categories_leave_a_mean_without_spread() -> None:
    runs = runs_of(("bottle",), (0, 1)) + runs_of(("screw",), (0,))
    found = row(category_grid(groups_of(runs), "test", "pixel_auroc"), "mean of all")["own"]
    assert found is not None
    bottle = statistics.mean(value("bottle", s)["pixel_auroc"] for s in (0, 1))
    assert found.mean == pytest.approx((bottle + value("screw", 0)["pixel_auroc"]) / 2)
    assert found.std is None


def without(run: Result, score: str) -> Result:
    kept = {name: number for name, number in run.measures["test"].items() if not name.endswith(score)}
    return replace(run, measures={"test": kept})


def test_fewer_seeds_in_a_cell_are_told_and_in_the_means_over_it() -> None:
    runs = runs_of(("bottle", "screw"), (0, 1, 2))
    runs = [without(run, "_control") if (run.category, run.seed) == ("screw", 1) else run for run in runs]
    grid = category_grid(groups_of(runs), "test", "pixel_auroc", interval="none")
    rows = {name: cells for name, *cells in text_table(grid).rows}
    assert rows["screw"][1] == "0.5000 ± 0.0000 (2 of 3)"
    assert rows["mean of all (2 of 15)"][1] == "0.5000 ± 0.0000 (2 of 3)"
    assert " of " not in "".join([*rows["bottle"], rows["screw"][0], rows["mean of all (2 of 15)"][0]])
    assert any("(2 of 3): 2 of 3 runs measured it." in note for note in grid.notes)
    runs = [run for run in runs if (run.category, run.seed) != ("bottle", 0)]  # now categories have different seeds
    grid = category_grid(groups_of(runs), "test", "pixel_auroc", interval="none")
    assert text_table(grid).rows[-1][2] == "0.5000 (4 of 5)"


def test_where_no_seed_has_all_categories_the_mean_has_no_spread() -> None:
    runs = runs_of(("bottle", "screw"), (0, 1))
    lacking = {("bottle", 0), ("screw", 1)}
    runs = [without(run, "_own") if (run.category, run.seed) in lacking else run for run in runs]
    found = row(category_grid(groups_of(runs), "test", "pixel_auroc"), "mean of all")["own"]
    assert found is not None
    expected = (value("bottle", 1)["pixel_auroc"] + value("screw", 0)["pixel_auroc"]) / 2
    assert found.mean == pytest.approx(expected)
    assert (found.std, found.partial) == (None, (2, 4))


def test_a_method_that_lacks_a_category_has_no_mean() -> None:
    runs = [*runs_of(("bottle", "screw"), (0,)), made("n_bottle", 0, value("bottle", 0), data__category="bottle")]
    grid = category_grid(groups_of(runs), "test", "pixel_auroc", controls=False)
    assert grid.columns == ("m: own", "n")
    assert row(grid, "mean of all")["n"] is None
    assert row(grid, "mean of all")["m: own"] is not None


def test_a_folder_of_the_same_layout_stands_below_the_fifteen() -> None:
    grid = category_grid(groups_of(runs_of(("nut", "zipper"), (0,))), "test", "pixel_auroc", controls=False)
    assert [label[0] for label in grid.labels[:2]] == ["zipper", "nut"]


def test_categories_are_those_of_the_data() -> None:
    kinds = kinds_of_category()
    assert tuple(kinds) == CATEGORIES
    assert tuple(name for name in kinds if kinds[name] == "texture") == TEXTURES


@pytest.mark.parametrize(
    ("method", "measure", "mean"),
    [
        ("expVAE", "pixel_auroc", 0.861),  # as FCDD and a README of semi-orthogonal embedding print it
        ("VAE-grad", "pixel_auroc", 0.893),
        ("AE (SSIM)", "pixel_auroc", 0.87),
        ("VAE (PaDiM's)", "pixel_auroc", 0.744),
        ("VAE (PaDiM's)", "aupro", 0.642),
        ("RIAD", "pixel_auroc", 0.942),
        ("DRAEM", "pixel_auroc", 0.973),
        ("PaDiM", "pixel_auroc", 0.979),
        ("PatchCore", "pixel_auroc", 0.98),
        ("EfficientAD", "pixel_auroc", 0.958),
        ("EfficientAD", "aupro", 0.9),
    ],
)
def test_published_cells_have_the_mean_that_was_printed(method: str, measure: str, mean: float) -> None:
    """A digit that was mistyped would move the mean."""
    (column,) = published_columns(measure, [method])
    cells = [column.cells[name].mean for name in CATEGORIES]
    assert statistics.mean(cells) == pytest.approx(mean, abs=0.0055 if mean in (0.87, 0.98, 0.9) else 0.00055)


def test_every_published_figure_is_a_share_with_a_source() -> None:
    for measure in ("pixel_auroc", "aupro", "best_iou"):
        columns = published_columns(measure)
        assert columns
        for column in columns:
            assert column.source
            assert set(column.cells) <= {*CATEGORIES, "all"}
            assert all(0 <= found.mean <= 1 for found in column.cells.values())
    assert published_columns("image_ap") == []


def test_cells_of_the_papers_table() -> None:
    (auroc,), (iou,) = published_columns("pixel_auroc", ["expVAE"]), published_columns("best_iou", ["expVAE"])
    assert (auroc.cells["screw"].mean, iou.cells["screw"].mean) == (0.97, 0.17)
    assert (auroc.cells["bottle"].mean, iou.cells["bottle"].mean) == (0.87, 0.27)


def test_an_unknown_method_is_told() -> None:
    with pytest.raises(VaexError, match="did you mean 'PatchCore'"):
        published_columns("pixel_auroc", ["Patchcore"])
