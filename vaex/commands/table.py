"""``vaex table``: run folders into tables over seeds, and beside published figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import under_hydra
from vaex.commands.run_folders import read_results
from vaex.errors import VaexError, unknown
from vaex.intake import printable
from vaex.runs import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vaex.reporting.grid import Grid
    from vaex.reporting.groups import Group
    from vaex.reporting.results import Result

SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".txt": "text"}
LAYOUTS = ("runs", "categories")
EVERY = "all"


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    under_hydra("table", tabulate, arguments)


def tabulate(config: DictConfig) -> None:
    """Print the tables of ``runs`` or write them to ``out``."""
    form = chosen_format(config.format, config.out)
    if not isinstance(config.digits, int) or not 0 <= config.digits <= 17:
        raise VaexError(f"digits must be a whole number from 0 to 17, got {config.digits}.")
    results = read_results(names_of(config.runs, "runs") or [])
    view = view_of(results, config)
    tables = grids_of(view, config)
    grids = [*tables, *compared(view, config)]
    drawn = picture_of(tables, results, config) if config.plot else None  # what cannot be drawn is told first
    text = rendered(grids, form, config.digits) if config.out or form != "text" else None
    if config.out:
        write_atomic(Path(config.out).expanduser(), text or "")
        print(config.out)
    elif text is not None:
        print(text, end="")
    else:
        show(grids, config.digits)
    if drawn is not None:
        print(save(drawn, config))


def names_of(value: Any, key: str) -> list[str] | None:
    """Return the texts of a list option; one counts as a list, null as None.

    Raises:
        VaexError: when it is empty or holds anything but texts and numbers.
    """
    if value is None:
        return None
    items = OmegaConf.to_container(value) if OmegaConf.is_list(value) else [value]
    if not isinstance(items, list) or not items or not all(isinstance(item, str | int) for item in items):
        raise VaexError(f"{key} must be a list such as {key}=[NAME,NAME], got '{value}'.")
    return [str(item) for item in items]


def chosen_format(form: str | None, out: str | None) -> str:
    """Return the format that is named, else that of the suffix of ``out``, else text.

    Raises:
        VaexError: for an unknown name.
    """
    if form is None:
        return SUFFIXES.get(Path(out).suffix.lower(), "text") if out else "text"
    if form not in SUFFIXES.values():
        raise unknown("format of vaex table", form, SUFFIXES.values())
    return form


class View(NamedTuple):
    """What a table shows: its layout, the groups of runs, the measures, and published columns beside them."""

    layout: str
    groups: Sequence[Group]
    metrics: Sequence[str]
    published: bool | list[str] | None


def view_of(results: Sequence[Result], config: DictConfig) -> View:
    """Return groups and measures of the chosen layout; what is left out is told on stderr."""
    from vaex.reporting.categories import CATEGORY
    from vaex.reporting.groups import chosen_metrics, grouped

    published = published_option(config.published)
    if published and config.stage != "test":
        raise VaexError(f"published=... are figures of tests, and stage={config.stage} is none; leave published=null.")
    layout = chosen_layout(config.layout, results, published)
    metrics = chosen_metrics(results, config.stage, names_of(config.columns, "columns"))
    by = names_of(config.by, "by")
    if layout == "runs":
        if published:
            raise VaexError("published=... stands beside MVTec AD by category; leave layout=null, or published=null.")
        groups, told = grouped(results, by)
    else:
        groups, told = grouped(with_category(results), by, across=[CATEGORY])
    say(told)
    return View(layout, groups, metrics, published)


def grids_of(view: View, config: DictConfig) -> list[Grid]:
    """Return one table of runs, or for MVTec AD one for each measure."""
    from vaex.reporting.categories import category_grid
    from vaex.reporting.seeds import seeds_grid

    options = {"controls": config.controls, "interval": config.interval, "confidence": config.confidence}
    if view.layout == "runs":
        return [seeds_grid(view.groups, config.stage, view.metrics, **options)]
    return [
        category_grid(view.groups, config.stage, metric, published=view.published, **options) for metric in view.metrics
    ]


def compared(view: View, config: DictConfig) -> list[Grid]:
    """Return the table of paired tests that ``compare`` asks for, if it does."""
    if config.compare is None:
        return []
    from vaex.reporting.paired import paired_grid

    unit = "seeds" if view.layout == "runs" else "categories"
    options = {"unit": unit, "interval": config.interval, "confidence": config.confidence}
    return [paired_grid(view.groups, config.stage, view.metrics, str(config.compare), **options)]


def published_option(value: Any) -> bool | list[str] | None:
    """Return ``published`` as true, null or a list of methods; "all" stands for every method."""
    if value is None or isinstance(value, bool):
        return value or None
    names = names_of(value, "published")
    if names == [EVERY]:
        from vaex.reporting.published import published_methods

        return published_methods()
    return names


def chosen_layout(layout: str | None, results: Sequence[Result], published: Any) -> str:
    """Return the layout that is named, else categories where the runs are of several or figures stand beside them.

    Raises:
        VaexError: for an unknown name.
    """
    if layout is None:
        return "categories" if published or len({result.category for result in results} - {None}) > 1 else "runs"
    if layout not in LAYOUTS:
        raise unknown("layout of vaex table", layout, LAYOUTS)
    return layout


def with_category(results: Sequence[Result]) -> list[Result]:
    """Return the runs whose data has a category; the others are named on stderr.

    Raises:
        VaexError: when there is none.
    """
    kept = [result for result in results if result.category is not None]
    say([f"{result.folder}: left out, its config has no data.category" for result in results if not result.category])
    if not kept:
        raise VaexError("No run has a data.category; use layout=runs without published=.")
    return kept


def say(sentences: Sequence[str]) -> None:
    """Tell what was left out, on stderr."""
    for sentence in sentences:
        print(f"vaex table: {printable(sentence)}.", file=sys.stderr)


def rendered(grids: Sequence[Grid], form: str, digits: int) -> str:
    """Return the tables in a format."""
    import io

    from rich.console import Console

    from vaex.reporting.grid import csv_text, text_table
    from vaex.reporting.table import latex, markdown, show_table

    if form == "csv":
        return csv_text(grids)
    tables = [text_table(grid, digits) for grid in grids]
    if form == "text":
        stream = io.StringIO()
        for table in tables:
            show_table(table, Console(file=stream, width=400))
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
    return "\n".join((markdown if form == "markdown" else latex)(table) for table in tables)


def show(grids: Sequence[Grid], digits: int) -> None:
    """Print the tables; where the output is no terminal, as wide as they are."""
    from rich.console import Console

    from vaex.reporting.grid import text_table
    from vaex.reporting.table import show_table

    console = Console()
    if not console.is_terminal:
        print(rendered(grids, "text", digits), end="")
        return
    for grid in grids:
        show_table(text_table(grid, digits), console)


def picture_of(grids: Sequence[Grid], results: Sequence[Result], config: DictConfig) -> Figure:
    """Return the picture that ``plot`` asks for: of a list of two measures one against the other, else all seeds."""
    if OmegaConf.is_list(config.plot):
        from vaex.reporting.groups import grouped
        from vaex.reporting.tradeoff import tradeoff_picture

        groups, _ = grouped(results, names_of(config.by, "by"))
        names = names_of(config.plot, "plot") or []
        return tradeoff_picture(groups, names, config.stage, config.interval, config.confidence)
    from vaex.reporting.grid import picture

    return picture(grids)


def save(figure: Figure, config: DictConfig) -> Path:
    """Write a picture to the path that ``plot`` names, else beside ``out``, else to table.png; return it."""
    from vaex.viz import save_png

    named, out = config.plot if isinstance(config.plot, str) else None, config.out
    path = Path(named) if named else Path(out).with_suffix(".png") if out else Path("table.png")
    return save_png(figure, path.expanduser())
