"""Published figures on MVTec AD and UCSD Ped1, each with its source, read from vaex/published/."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vaex.errors import unknown
from vaex.reporting.summary import Summary

FOLDER = Path(__file__).resolve().parents[1] / "published"
ALL = "all"
"""In place of a category: the mean over all fifteen, as it was printed."""


@dataclass(frozen=True)
class Published:
    """A method's column: figures by category, or its mean alone."""

    method: str
    source: str
    cells: dict[str, Summary]


@cache
def kinds_of_category() -> dict[str, str]:
    """Return category -> "texture" or "object" for the fifteen categories, in the usual order."""
    return {row["category"]: row["kind"] for row in _rows() if row["kind"] != ALL}


@cache
def _rows(data: str = "mvtec") -> list[dict[str, str]]:
    with (FOLDER / f"{data}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published_beside(target: str, category: str | None) -> tuple[str, list[tuple[str, str, dict[str, float]]]]:
    """Return what data is called and (method, source, figure by measure) of it; no rows where none are known.

    ``target`` is the data module's class as a config names it, ``category`` that of MVTec AD.
    """
    name = target.rpartition(".")[2]
    if name == "Ped1":
        title, found = "UCSD Ped1", _rows("ped1")
    elif name == "MVTec" and category is not None:
        title, found = f"MVTec AD {category}", [row for row in _rows() if row["category"] == category]
    else:
        return "", []
    rows: dict[str, tuple[str, str, dict[str, float]]] = {}
    for row in found:
        method = rows.setdefault(row["method"], (row["method"], row["source"], {}))
        method[2][row["measure"]] = float(row["value"])
    return title, list(rows.values())


def published_methods() -> list[str]:
    """Return the names of all methods in the file."""
    return list(dict.fromkeys(row["method"] for row in _rows()))


def published_columns(measure: str, methods: Sequence[str] | None = None) -> list[Published]:
    """Return what was published for a measure such as ``pixel_auroc``; only ``methods`` where they are named.

    Raises:
        VaexError: for a method that the file does not hold for any measure.
    """
    known = published_methods()
    for name in methods or ():
        if name not in known:
            raise unknown("published method", name, known)
    columns = []
    for method in known if methods is None else methods:
        rows = [row for row in _rows() if row["method"] == method and row["measure"] == measure]
        if rows:
            sources = dict.fromkeys(row["source"] for row in rows)
            columns.append(
                Published(method, "; ".join(sources), {row["category"]: _cell(row["value"]) for row in rows})
            )
    return columns


def _cell(text: str) -> Summary:
    return Summary(float(text), digits=len(text.partition(".")[2]))
