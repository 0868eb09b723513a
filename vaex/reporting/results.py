"""Reading run folders: where they are, what was measured, and the config that they were made with."""

from __future__ import annotations

import glob
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaex.config import subject_of
from vaex.errors import VaexError
from vaex.reporting.scores import without_phantoms

MARKS = ("metrics.json", "run.json", ".hydra")
"""A folder with one of these is a run's."""

SKIPPED = "skipped.json"
"""File of a folder where nothing ran: ``{"finished": FOLDER}``, relative, is where the run lies that was not repeated,
``{"absent": SENTENCE}`` says which data was not there."""

SUBJECT = "vaex.subject:"
REFERENCE = re.compile(rf"\$\{{({SUBJECT}|[\w./]+)\}}")
MOST_REFERENCES = 4
"""Other keys that a text may name; more, and they could multiply without end. Those of vaex's config name three."""


@dataclass(frozen=True)
class Result:
    """One run: ``measures`` by stage, ``config`` flat and settled, ``raw`` the same as it was written."""

    folder: Path
    measures: Mapping[str, Mapping[str, float]]
    config: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    changed: float = 0.0  # when it was written, seconds

    @property
    def name(self) -> str:
        """Name of the run as its config gives it, else that of its folder."""
        return str(self.config.get("name") or self.folder.name)

    @property
    def category(self) -> str | None:
        """Category of its data, where the data has such."""
        found = self.config.get("data.category")
        return None if found is None else str(found)

    @property
    def family(self) -> str:
        """Name of the run without its category."""
        return self.name.removesuffix(f"_{self.category}") if self.category else self.name


def find_runs(patterns: Iterable[str]) -> list[Path]:
    """Return the run folders that paths and globs name, each once: themselves, or all those below them.

    Raises:
        VaexError: when one names nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.exists() else _matching(str(path))
        folders = [folder for match in matches for folder in _runs_below(match)]
        if not folders:
            what = "holds no run folder" if matches else "names nothing"
            raise VaexError(f"runs={pattern} {what}; a run's folder has a metrics.json, and ** looks in any depth.")
        found += folders
    return list({folder.resolve(): folder for folder in found}.values())


def _matching(pattern: str) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute ones too


def _runs_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path.parent] if path.name == MARKS[0] else []
    found = []
    for folder, below, _ in os.walk(path):
        if any((Path(folder) / mark).exists() for mark in MARKS):
            found.append(_finished_instead(Path(folder)))
            below.clear()
        below.sort()
    return found


def _finished_instead(folder: Path) -> Path:
    """Return the folder of the run that ``folder`` stands for, itself where it ran itself."""
    finished = None if (folder / MARKS[0]).exists() else _object(folder / SKIPPED).get("finished")
    return folder / finished if isinstance(finished, str) else folder


def absent_data(folder: Path) -> str | None:
    """Return the sentence on the data that was not there, where nothing ran in ``folder`` for that reason."""
    told = None if any((folder / mark).exists() for mark in MARKS[:2]) else _object(folder / SKIPPED).get("absent")
    return told if isinstance(told, str) else None


def read_result(folder: Path, config: Mapping[str, Any], origin: Mapping[str, Any] | None = None) -> Result:
    """Return what a run measured; ``config`` is its plain config and ``origin`` that of the run that it evaluated.

    Raises:
        VaexError: when metrics.json is missing, damaged or holds no numbers by stage.
    """
    record = _object(folder / MARKS[1])
    file = folder / MARKS[0]
    if not file.is_file():
        status = f"the run is {record['status']}" if record.get("status") else "it did not finish"
        raise VaexError(f"{folder}: no metrics.json, {status}")
    try:
        content = json.loads(file.read_text())
        measures = {str(stage): dict(_numbers(values)) for stage, values in content.items()}
        changed = file.stat().st_mtime
    except (OSError, ValueError, AttributeError) as error:
        raise VaexError(f"{folder}: metrics.json is damaged, it cannot be read as numbers by stage") from error
    raw = {**flat_config(origin or {}), **flat_config(config)}
    known = _with_subject(raw)
    settled = {key: _settled(value, known) for key, value in raw.items()}
    measures = {stage: without_phantoms(values, settled) for stage, values in measures.items()}
    if origin is not None:
        evaluated = _settled(str(origin.get("name")), _with_subject(flat_config(origin)))
        settled["name"] = f"{settled.get('name')} of {evaluated}"
    elif config.get("ckpt"):
        settled["name"] = f"{settled.get('name')} of {config['ckpt']}"
    seed = record.get("seed", config.get("seed"))
    return Result(folder, measures, settled, raw, seed if isinstance(seed, int) else None, changed)


def _object(file: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, empty where there is none that can be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(values: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"{name} is no number")
        yield name, math.nan if value is None else float(value)  # JSON has no NaN


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config with dotted keys; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _with_subject(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat config with what ``${vaex.subject:}`` stands for."""
    return {**flat, SUBJECT: subject_of({key: flat.get(f"data.{key}") for key in ("category", "texture")})}


def _settled(value: Any, known: Mapping[str, Any], depth: int = 0) -> Any:
    """Put in the values of other keys, such as ``${data.category}``; nothing else is ever evaluated."""
    if not isinstance(value, str) or depth > 8 or value.count("${") > MOST_REFERENCES:
        return value
    whole = REFERENCE.fullmatch(value)
    if whole and whole.group(1) in known:
        return _settled(known[whole.group(1)], known, depth + 1)

    def other(match: re.Match[str]) -> str:
        return str(_settled(known[match.group(1)], known, depth + 1)) if match.group(1) in known else match.group()

    return REFERENCE.sub(other, value)


def one_per_seed(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Return the newest run of each seed, and a sentence for each older one that is left out.

    Runs that state no seed are kept: they cannot be told apart.
    """
    newest: dict[int, Result] = {}
    kept, told = [], []
    for result in sorted(results, key=lambda result: result.changed):
        if result.seed is None:
            kept.append(result)
            continue
        if (older := newest.get(result.seed)) is not None:
            told.append(f"{older.folder}: left out, {result.folder} is a newer run of seed {result.seed}")
        newest[result.seed] = result
    return [*sorted(newest.values(), key=lambda result: result.seed or 0), *kept], told


def measured(results: Iterable[Result], stage: str) -> list[str]:
    """Return the names measured in ``stage`` by any run, without those of single kinds of defect."""
    names = {name for result in results for name in result.measures.get(stage, {}) if "/" not in name}
    return sorted(names)


def values_of(results: Iterable[Result], stage: str, name: str) -> list[float]:
    """Return a measure of each run that has it, NaN where it was not defined."""
    found = (result.measures.get(stage, {}).get(name) for result in results)
    return [math.nan if value is None else value for value in found]
