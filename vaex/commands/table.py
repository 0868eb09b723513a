"""``vaex table``: run folders into tables over seeds, and beside published figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import under_hydra
from vaex.commands.resuming import read_run_config
from vaex.errors import VaexError, unknown
from vaex.intake import printable
from vaex.runs import CHECKPOINTS, write_atomic

if TYPE_CHECKING:
    from vaex.reporting.grid import Grid
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
    results = read_results(names_of(config.runs, "runs") or [])
    grids = grids_of(results, config)
    text = rendered(grids, form, config.digits) if config.out or form != "text" else None
    if config.out:
        write_atomic(Path(config.out).expanduser(), text or "")
        print(config.out)
    elif text is not None:
        print(text, end="")
    else:
        show(grids, config.digits)
    if config.plot:
        print(draw(grids, config.plot, config.out))


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


def read_results(patterns: Sequence[str]) -> list[Result]:
    """Return what the runs measured; those that cannot be read are named on stderr.

    Raises:
        VaexError: when none can be read.
    """
    from vaex.reporting.results import find_runs, read_result

    if not patterns:
        raise VaexError("Name run folders: vaex table runs=outputs, or runs=[RUN_FOLDER,RUN_FOLDER].")
    found = []
    for folder in find_runs(patterns):
        try:
            config = config_of(folder)
            found.append(read_result(folder, config, origin_of(config)))
        except VaexError as error:
            print(f"vaex table: left out {printable(str(error))}.", file=sys.stderr)
    if not found:
        raise VaexError("No run is left: none of the folders holds a metrics.json that can be read.")
    return found


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config of a run as it was written, nothing in it evaluated; empty where it cannot be read."""
    file = folder / ".hydra" / "config.yaml"
    try:
        return read_run_config(folder)
    except VaexError:
        if file.exists():
            print(
                f"vaex table: {printable(str(file))} cannot be read; the run is called by its folder.", file=sys.stderr
            )
        return {}


def origin_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the run whose checkpoint was evaluated, where it lies beside it."""
    if not config.get("ckpt"):
        return None
    path = Path(str(config["ckpt"])).expanduser()
    folder = path.parent.parent if path.parent.name == CHECKPOINTS else path
    return config_of(folder) or None


def grids_of(results: Sequence[Result], config: DictConfig) -> list[Grid]:
    """Return one table of runs, or for MVTec AD one for each measure."""
    from vaex.reporting.categories import CATEGORY, category_grid
    from vaex.reporting.groups import chosen_metrics, grouped
    from vaex.reporting.seeds import seeds_grid

    published = published_option(config.published)
    layout = chosen_layout(config.layout, results, published)
    metrics = chosen_metrics(results, config.stage, names_of(config.columns, "columns"))
    options = {"controls": config.controls, "interval": config.interval, "confidence": config.confidence}
    by = names_of(config.by, "by")
    if layout == "runs":
        if published:
            raise VaexError("published=... stands beside MVTec AD by category; leave layout=null, or published=null.")
        groups, told = grouped(results, by)
        say(told)
        return [seeds_grid(groups, config.stage, metrics, **options)]
    groups, told = grouped(with_category(results), by, across=[CATEGORY])
    say(told)
    return [category_grid(groups, config.stage, metric, published=published, **options) for metric in metrics]


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


def draw(grids: Sequence[Grid], plot: Any, out: str | None) -> Path:
    """Write a picture of every seed and return its path: ``plot`` if it is one, else beside ``out``, else table.png."""
    from vaex.reporting.grid import picture
    from vaex.viz import save_png

    path = Path(plot) if isinstance(plot, str) else Path(out).with_suffix(".png") if out else Path("table.png")
    return save_png(picture(grids), path.expanduser())
