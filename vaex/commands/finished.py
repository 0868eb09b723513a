"""Which runs need not be made: those that finished already, in whatever folder, and those whose data is not there."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vaex.reporting.groups import IDLE
from vaex.reporting.results import SKIPPED, absent_data, flat_config
from vaex.runs import CHECKPOINTS, LAST, write_json

UNTOLD = {*IDLE} - {"seed", "name"}
"""Keys, and groups of keys, in which two runs may differ and still be the same run."""


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return the sha256 of a resolved config, but for keys that no result depends on, such as folders and loggers.

    Which GPUs are used does not count, their number does.
    """
    flat = {
        key: value
        for key, value in flat_config(config).items()
        if key not in UNTOLD and not key.startswith(tuple(f"{name}." for name in UNTOLD))
    }
    if isinstance(devices := flat.get("trainer.devices"), list):
        flat["trainer.devices"] = len(devices)
    return hashlib.sha256(json.dumps(flat, sort_keys=True, default=str).encode()).hexdigest()


def finished_run(key: str, *folders: Path) -> Path | None:
    """Return a finished run with the fingerprint ``key`` at or below the first of ``folders`` that has one."""
    return next((run for folder in folders for run in _runs(folder) if _is_finished(run, key)), None)


def _runs(folder: Path) -> Iterator[Path]:
    for path, below, files in os.walk(folder):
        if "run.json" in files:
            yield Path(path)
            below.clear()
        below.sort()


def _status(folder: Path, key: str) -> str | None:
    """Return how the run in ``folder`` ended if it is the one with the fingerprint ``key``, else None."""
    try:
        record = json.loads((folder / "run.json").read_text())
        return str(record["status"]) if record["config"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_finished(folder: Path, key: str) -> bool:
    return _status(folder, key) == "finished" and (folder / "metrics.json").is_file()


def stopped_half_way(folder: Path, key: str) -> bool:
    """Return whether ``folder`` holds the run with the fingerprint ``key``, unfinished, with a last checkpoint."""
    return _status(folder, key) not in (None, "finished") and (folder / CHECKPOINTS / LAST).is_file()


def stand_in(folder: Path, finished: Path) -> None:
    """Let ``folder``, where nothing was run, say where the run that it stands for lies; `vaex table` follows."""
    if finished.resolve() != folder.resolve():
        write_json(folder / SKIPPED, {"finished": os.path.relpath(finished, folder)})


def leave_out(folder: Path, reason: str, once: bool) -> None:
    """Let ``folder``, where nothing was run, say which data was not there, so that `vaex table` leaves it out.

    It is told on stderr, ``once`` for all folders beside each other.
    """
    known = once and any(absent_data(file.parent) == reason for file in folder.parent.glob(f"*/{SKIPPED}"))
    write_json(folder / SKIPPED, {"absent": reason})
    if not known:
        print(f"vaex train: skipped: {reason}", file=sys.stderr)
