"""One table, three ways out: text for the terminal, markdown, and the rows as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from vaex.runs import write_atomic, write_json


@dataclass(frozen=True)
class Table:
    """Rows of text under ``columns``; ``notes`` stand below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def show_table(table: Table, console: Console) -> None:
    """Print the table; numbers, which stand in all columns but the first, to the right."""
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    for note in table.notes:
        console.print(note, highlight=False, soft_wrap=True)


def markdown(table: Table) -> str:
    """Return the table as GitHub markdown, its title as a heading and its notes as a paragraph each."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join("---" if number == 0 else "---:" for number in range(len(table.columns))) + "|"
    body = [line(table.columns), rule, *(line(row) for row in table.rows)]
    notes = [part for note in table.notes for part in ("", note)]
    return "\n".join([f"## {table.title}", "", *body, *notes, ""])


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
