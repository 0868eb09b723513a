"""What a benchmark writes: its tables as markdown, its numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.reporting.table import Table, markdown, show_table
from vaex.runs import write_atomic, write_json

__all__ = ["Table", "markdown", "show_table", "write_results"]


def write_results(folder: Path, name: str, tables: Sequence[Table], content: Mapping[str, Any]) -> list[Path]:
    """Write NAME.md and NAME.json into ``folder``, atomically, and return their paths.

    ``content`` is what the JSON holds: the numbers, machine and versions. The markdown names the machine.
    """
    document, data = folder / f"{name}.md", folder / f"{name}.json"
    machine, versions = content.get("machine") or {}, content.get("versions") or {}
    where = [str(machine[key]) for key in ("cpu", "platform") if machine.get(key)]
    where += [", ".join(machine.get("gpus") or [])] if machine.get("gpus") else []
    where += [f"{package} {version}" for package, version in versions.items()]
    write_json(data, content)
    write_atomic(document, "\n".join([*(markdown(table) for table in tables), f"Machine: {'; '.join(where)}.", ""]))
    return [document, data]
