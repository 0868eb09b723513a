"""Published figures on MVTec AD, each with its source, read from vaex/published/mvtec.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vaex.errors import unknown
from vaex.reporting.summary import Summary

FILE = Path(__file__).resolve().parents[1] / "published" / "mvtec.csv"
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
def _rows() -> list[dict[str, str]]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
