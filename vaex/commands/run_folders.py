"""Run folders on disk, read into results; what cannot be read is named."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaex.commands.resuming import read_run_config
from vaex.errors import VaexError
from vaex.intake import printable
from vaex.runs import CHECKPOINTS

if TYPE_CHECKING:
    from vaex.reporting.results import Result


def read_results(patterns: Sequence[str]) -> list[Result]:
    """Return what the runs measured; those that cannot be read are named on stderr, and data that was not there.

    Raises:
        VaexError: when none can be read.
    """
    from vaex.reporting.results import absent_data, find_runs, read_result

    if not patterns:
        raise VaexError("Name run folders: vaex table runs=outputs, or runs=[RUN_FOLDER,RUN_FOLDER].")
    found, skipped = [], []
    for folder in find_runs(patterns):
        if absent_data(folder) is not None:
            skipped.append(_category_of(folder))
            continue
        try:
            config = config_of(folder)
            found.append(read_result(folder, config, origin_of(config)))
        except VaexError as error:
            print(f"vaex: left out {printable(str(error))}.", file=sys.stderr)
    if skipped:
        names = printable(", ".join(dict.fromkeys(skipped)))
        print(
            f"vaex: left out {len(skipped)} runs that were skipped, their data was not there: {names}.", file=sys.stderr
        )
    if not found:
        raise VaexError("No run is left: none of the folders holds a metrics.json that can be read.")
    return found


def _category_of(folder: Path) -> str:
    """Return the category of a run's data, else the name of its folder."""
    data = config_of(folder).get("data")
    return str((data.get("category") if isinstance(data, Mapping) else None) or folder.name)


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config of a run as it was written, nothing in it evaluated; empty where it cannot be read."""
    file = folder / ".hydra" / "config.yaml"
    try:
        return read_run_config(folder)
    except VaexError:
        if file.exists():
            print(f"vaex: {printable(str(file))} cannot be read; the run is called by its folder.", file=sys.stderr)
        return {}


def origin_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the run whose checkpoint was evaluated, where it lies beside it."""
    if not config.get("ckpt"):
        return None
    path = Path(str(config["ckpt"])).expanduser()
    folder = path.parent.parent if path.parent.name == CHECKPOINTS else path
    return config_of(folder) or None
