"""What a benchmark writes: its tables as text and markdown, its numbers as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from vaex.reporting.table import Table, markdown, show_table
from vaex.runs import write_atomic, write_json

__all__ = ["Part", "Table", "machine_line", "markdown", "read_part", "show_table", "text", "write_results"]

WIDTH = 180
"""Columns of a text file, as wide as the widest table."""


class Part(NamedTuple):
    """What one benchmark wrote: its tables, and all that its JSON holds."""

    tables: list[Table]
    content: dict[str, Any]


def machine_line(content: Mapping[str, Any]) -> str:
    """Return one sentence that names machine, versions and commit of ``content``, so far as it tells them."""
    machine, versions = content.get("machine") or {}, content.get("versions") or {}
    where = [str(machine[key]) for key in ("cpu", "platform") if machine.get(key)]
    where += [", ".join(machine.get("gpus") or ["no GPU"])] if machine else []
    where += [f"{package} {version}" for package, version in versions.items()]
    if content.get("commit"):
        where.append(f"commit {content['commit']}{' with changes' if content.get('dirty') else ''}")
    return f"Machine: {'; '.join(where)}."


def text(tables: Sequence[Table]) -> str:
    """Return the tables as a terminal of `WIDTH` columns shows them, without colours."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, force_terminal=False, color_system=None)
    for table in tables:
        show_table(table, console)
        console.print()
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def write_results(
    folder: Path, name: str, tables: Sequence[Table], content: Mapping[str, Any], notes: Sequence[str] = ()
) -> list[Path]:
    """Write NAME.txt, NAME.md and NAME.json into ``folder``, atomically, and return their paths.

    ``content`` is what the JSON holds: the numbers, machine and versions; the tables are added as ``tables``. The other
    two name the machine, and ``notes`` before it.
    """
    lines = [*notes, machine_line(content)]
    documents = {
        "txt": "\n\n".join([text(tables), *lines]) + "\n",
        "md": "\n".join([*(markdown(table) for table in tables), *(f"{line}\n" for line in lines)]),
    }
    paths = {suffix: folder / f"{name}.{suffix}" for suffix in ("txt", "md", "json")}
    write_json(paths["json"], {**content, "tables": [asdict(table) for table in tables]})
    for suffix, document in documents.items():
        write_atomic(paths[suffix], document)
    return list(paths.values())


def read_part(path: Path) -> Part:
    """Return what a NAME.json of `write_results` holds."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Part([_table(found) for found in content.pop("tables")], content)


def _table(found: Mapping[str, Any]) -> Table:
    rows = tuple(tuple(row) for row in found["rows"])
    return Table(found["title"], tuple(found["columns"]), rows, tuple(found["notes"]), found["labels"])
