"""A CSV table that lists images, what they show, and which split they belong to."""

from __future__ import annotations

import csv
import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.data.records import ANOMALOUS, GOOD, SPLITS, Record
from vaex.errors import VaexError, unknown

COLUMNS = ("path", "label", "mask", "split", "group")

CLOSE = 0.8
"""Likeness from which on another column is taken for one of `COLUMNS` misspelt; "lable" and "label" have just that."""

_LABELS = {
    **dict.fromkeys(("0", "0.0", "normal", "good", "ok", "false"), 0),
    **dict.fromkeys(("1", "1.0", "anomaly", "anomalous", "abnormal", "bad", "defect", "defective", "ng", "true"), 1),
}

_log = logging.getLogger(__name__)


def read_manifest(
    table: Path, base: Path, columns: Mapping[str, str] | None = None, where: Mapping[str, Any] | None = None
) -> list[Record]:
    """Return the rows of a CSV file as records; a split that a row leaves open is "" (normal) or "test" (anomalous).

    The first line names the columns. ``path`` is the image, relative to ``base``; ``label`` is 0 or 1 (or normal, good,
    ok, anomaly, bad, defect ...), a column that may be left out where all images are normal; ``mask``, ``split``
    (train, val, test) and ``group`` (kind of defect) may be left out or empty. Spaces around cells do not count. The
    mask of a normal image must mark nothing, which is seen where it is read; until then its record says where it is
    ``listed``.
    ``columns`` renames them, ``where`` keeps the rows that have these values. Further columns are ignored, with a
    warning where there is no ``label``.

    Raises:
        VaexError: when the file or an image is missing, a column does not exist, is there twice or misspelt, a label is
            empty or unknown, a split is unknown, an anomalous image is for training, an image has a mask or a group but
            no label, is listed twice (also by another path to the same file), or ``where`` leaves no row. The line is
            named.
    """
    names = {name: (columns or {}).get(name, name) for name in COLUMNS}
    for name in columns or {}:
        if name not in COLUMNS:
            raise unknown("key of data.columns", name, COLUMNS)
    header, rows = _rows(table)
    for column in (names["path"], *(where or {}), *(columns or {}).values()):
        if column not in header:
            if len(header) == 1 and re.search(r"[;\t]", header[0]):
                raise VaexError(f"{table} has no commas between its cells ('{header[0]}'); save it as CSV with commas.")
            raise VaexError(
                f"{table} has no column '{column}' (it has {', '.join(header) or 'no rows'}); set data.columns."
            )
    _check_names(table, header, [names[name] for name in COLUMNS])
    for column, value in (where or {}).items():
        present = {row[column] for _, row in rows}
        rows = [(line, row) for line, row in rows if _says(row[column], value)]
        if not rows:
            raise unknown(f"value of '{column}' in {table}", str(value), present)
    records: list[Record] = []
    seen: dict[Path, int] = {}
    for line, row in rows:
        found = {name: row.get(column, "") for name, column in names.items()}
        record = _record_of(f"{table}, line {line}", found, base, names["label"] in header)
        if (first := seen.setdefault(record.path.resolve(), line)) != line:
            raise VaexError(f"{table}, line {line}: {record.path} is in line {first} already; list it once.")
        records.append(record)
    others = [column for column in header if column not in (*names.values(), *(where or {}))]
    if names["label"] not in header and others:
        _log.warning(
            "%s has no column '%s', so all %d images count as normal; if %s tells which are not, set "
            "data.columns.label=COLUMN.",
            *(table, names["label"], len(records), " or ".join(f"'{column}'" for column in others)),
        )
    return records


def _check_names(table: Path, header: Sequence[str], ours: Sequence[str]) -> None:
    """Refuse a column that is there twice, and one that seems to be another of ``ours`` that is missing."""
    for column in ours:
        if header.count(column) > 1:
            raise VaexError(f"{table} has {header.count(column)} columns '{column}'; keep one of them.")
    for column in [column for column in ours if column not in header]:
        for other in [other for other in header if other not in ours]:
            plain = other.strip().lower()
            alike = difflib.SequenceMatcher(None, column.lower(), plain).ratio()
            if alike >= CLOSE or sorted(column.lower()) == sorted(plain):
                raise VaexError(
                    f"{table} has a column '{other}' and none that is called '{column}'; rename it to '{column}', or "
                    "to something less like it if it is another thing."
                )


def _says(cell: str, value: Any) -> bool:
    return cell.lower() == str(value).lower() if isinstance(value, bool) else cell == str(value)


def _rows(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the names of the columns, and the rows with their lines; none without rows, cells without spaces."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = header = [name.strip() for name in reader.fieldnames or ()]
            rows = [
                (reader.line_num, {name: (text or "").strip() for name, text in row.items() if name is not None})
                for row in reader
            ]
            rows = [(line, row) for line, row in rows if any(row.values())] or rows  # spreadsheets leave blank ones
            return (header, rows) if header and rows else ([], [])  # without a first line of names all cells have none
    except OSError as error:
        raise VaexError(
            f"Cannot read the manifest {table} ({error.strerror or error}); check data.manifest."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise VaexError(f"The manifest {table} is no CSV file in UTF-8 ({error}); save it as one.") from error


def _record_of(place: str, row: Mapping[str, str], base: Path, labelled: bool) -> Record:
    try:
        record = _record(row, base, labelled)
    except VaexError as error:
        raise VaexError(f"{place}: {error}") from None
    return record if record.mask is None or record.label else record._replace(listed=place)


def _record(row: Mapping[str, str], base: Path, labelled: bool) -> Record:
    path = base / row["path"]
    if not row["path"] or not _is_file(path):
        raise VaexError(f"there is no image {path}; paths are relative to {base}.")
    label = _LABELS.get(row["label"].lower()) if row["label"] else 0
    if label is None:
        raise unknown("label", row["label"], _LABELS)
    for name, known in (("mask", row["mask"]), ("group", _LABELS.get(row["group"].lower(), 1) if row["group"] else 0)):
        if known and not row["label"]:
            raise VaexError(f"{path} has a {name} but no label; give it the label 1 (anomalous) or 0 (normal).")
    if labelled and not row["label"]:
        raise VaexError(f"{path} has no label; give it 0 (normal) or 1 (anomalous), or leave out the row.")
    split = row["split"].lower()
    if split and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if label and split == "train":
        raise VaexError(f"{path} is anomalous, but training takes normal images only; give it the split val or test.")
    mask = base / row["mask"] if row["mask"] else None
    if mask is not None and not _is_file(mask):
        raise VaexError(f"there is no mask {mask}; paths are relative to {base}.")
    group = (row["group"] if row["group"] not in ("", GOOD) else ANOMALOUS) if label else GOOD
    return Record(path, split or ("test" if label else ""), label, group, mask)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name: too long, or with a zero byte
        return False
