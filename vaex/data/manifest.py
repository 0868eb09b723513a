"""A CSV table that lists images, what they show, and which split they belong to."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaex.data.records import ANOMALOUS, GOOD, SPLITS, Record
from vaex.errors import VaexError, unknown

COLUMNS = ("path", "label", "mask", "split", "group")

_LABELS = {
    **dict.fromkeys(("0", "normal", "good", "ok", "false"), 0),
    **dict.fromkeys(("1", "anomaly", "anomalous", "abnormal", "bad", "defect", "defective", "ng", "true"), 1),
}


def read_manifest(
    table: Path, base: Path, columns: Mapping[str, str] | None = None, where: Mapping[str, Any] | None = None
) -> list[Record]:
    """Return the rows of a CSV file as records; a split that a row leaves open is "" (normal) or "test" (anomalous).

    The first line names the columns. ``path`` is the image, relative to ``base``; ``label`` is 0 or 1 (or normal, good,
    ok, anomaly, bad, defect ...), and may be left out where all images are normal; ``mask``, ``split`` (train, val,
    test) and ``group`` (kind of defect) may be left out or empty. ``columns`` renames them, ``where`` keeps the rows
    that have these values.

    Raises:
        VaexError: when the file or an image is missing, a column does not exist, a label or split is unknown, an
            anomalous image is for training, an image has a mask but no label or is listed twice, or ``where`` leaves
            no row. The line is named.
    """
    names = {name: (columns or {}).get(name, name) for name in COLUMNS}
    for name in columns or {}:
        if name not in COLUMNS:
            raise unknown("key of data.columns", name, COLUMNS)
    rows = _rows(table)
    header = list(rows[0][1]) if rows else []
    for column in (names["path"], *(where or {}), *(columns or {}).values()):
        if column not in header:
            if len(header) == 1 and re.search(r"[;\t]", header[0]):
                raise VaexError(f"{table} has no commas between its cells ('{header[0]}'); save it as CSV with commas.")
            raise VaexError(
                f"{table} has no column '{column}' (it has {', '.join(header) or 'no rows'}); set data.columns."
            )
    for column, value in (where or {}).items():
        present = {row[column] for _, row in rows}
        rows = [(line, row) for line, row in rows if row[column] == str(value)]
        if not rows:
            raise unknown(f"value of '{column}' in {table}", str(value), present)
    records: list[Record] = []
    seen: dict[Path, int] = {}
    for line, row in rows:
        found = {name: (row.get(column) or "").strip() for name, column in names.items()}
        try:
            record = _record(found, base)
        except VaexError as error:
            raise VaexError(f"{table}, line {line}: {error}") from None
        if record.path in seen:
            raise VaexError(
                f"{table}, line {line}: {record.path} is in line {seen[record.path]} already; list it once."
            )
        seen[record.path] = line
        records.append(record)
    return records


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, {name: text for name, text in row.items() if name is not None}) for row in reader]
            return rows if reader.fieldnames else []  # without a first line of names all cells have none
    except OSError as error:
        raise VaexError(
            f"Cannot read the manifest {table} ({error.strerror or error}); check data.manifest."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise VaexError(f"The manifest {table} is no CSV file in UTF-8 ({error}); save it as one.") from error


def _record(row: Mapping[str, str], base: Path) -> Record:
    path = base / row["path"]
    if not row["path"] or not _is_file(path):
        raise VaexError(f"there is no image {path}; paths are relative to {base}.")
    label = _LABELS.get(row["label"].lower()) if row["label"] else 0
    if label is None:
        raise unknown("label", row["label"], _LABELS)
    if row["mask"] and not row["label"]:
        raise VaexError(f"{path} has a mask but no label; give it the label 1 (anomalous) or 0 (normal).")
    split = row["split"].lower()
    if split and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if label and split == "train":
        raise VaexError(f"{path} is anomalous, but training takes normal images only; give it the split val or test.")
    mask = base / row["mask"] if row["mask"] and label else None
    if mask is not None and not _is_file(mask):
        raise VaexError(f"there is no mask {mask}; paths are relative to {base}.")
    group = (row["group"] if row["group"] not in ("", GOOD) else ANOMALOUS) if label else GOOD
    return Record(path, split or ("test" if label else ""), label, group, mask)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name: too long, or with a zero byte
        return False
