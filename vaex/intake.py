"""What a file from elsewhere may hold, checked before it is used: archives, pickles, plain values, and text to show."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from vaex.errors import VaexError

MOST_VALUES = 100_000
"""Values that a config may hold; those of vaex hold some hundreds."""

DEEPEST = 32
"""Mappings and lists inside one another that a config may have."""

_FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"  # the last four: the same in full width
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def check_plain(value: Any, what: str) -> None:
    """Refuse anything but mappings with text keys, lists, text, numbers, true, false and null, in a sane number.

    Shared parts count wherever they appear, so a small file that names one list a thousand times over, or itself, ends
    here and not in memory.

    Raises:
        VaexError: naming ``what`` and the place in it.
    """
    waiting: list[tuple[Any, str, int]] = [(value, what, 0)]
    seen = 0
    while waiting:
        item, where, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise VaexError(
                f"{what} holds more than {MOST_VALUES} values, or such that are nested more than {DEEPEST} deep, which "
                "no config of vaex does; do not use it."
            )
        if isinstance(item, dict):
            for key, inner in item.items():
                if not isinstance(key, str | int | float | None):
                    raise VaexError(f"{where} has a key of type {type(key).__name__}, expected text; do not use it.")
                waiting.append((inner, f"{where}.{key}" if len(where) < 200 else where, depth + 1))
        elif isinstance(item, list | tuple):
            if len(item) > MOST_VALUES:
                seen += len(item)  # told above, before they are all put on the list
                waiting.append((None, where, depth))
                continue
            waiting.extend((inner, where, depth + 1) for inner in item)
        elif item is not None and type(item) not in (str, int, float, bool):
            raise VaexError(
                f"{where} is of type {type(item).__name__.strip('_')}, expected text, a number, a list or a mapping; "
                "do not use it."
            )


def check_checkpoint_archive(file: Path) -> None:
    """Refuse a checkpoint's zip that holds more than its own size: packed members, or such that share bytes.

    torch.save packs nothing, so there is no need to unpack what could grow a thousandfold.

    Raises:
        VaexError: for such a file; zipfile.BadZipFile and OSError where it is no zip or cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    held = sum(member.file_size for member in members)
    if held > file.stat().st_size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise VaexError(
            f"Checkpoint {file} is packed: it would unpack to {held} bytes, which torch.save never does; do not use it."
        )


def check_pickle(data: bytes) -> None:
    """Refuse a pickle that makes the interpreter reserve memory for what is not in it.

    Raises:
        ValueError: for such a pickle, or one that is cut short.
    """
    for code, argument, _ in pickletools.genops(data):
        if "PUT" in code.name and isinstance(argument, int) and argument > len(data):
            raise ValueError(f"the memo {argument} is larger than the pickle")


def harmless_cell(value: Any) -> Any:
    """Return a cell for a csv file: text that a spreadsheet would run as a formula gets an apostrophe in front.

    Numbers stay as they are.
    """
    return f"'{value}" if isinstance(value, str) and value[:1] and value[0] in _FORMULA else value


def text_of_cell(cell: str) -> str:
    """Return the text of which `harmless_cell` made ``cell``."""
    return cell[1:] if cell[:1] == "'" and harmless_cell(cell[1:]) == cell else cell


def printable(text: str) -> str:
    """Return ``text`` for a terminal: what would move the cursor, colour, reorder or hide it is shown as an escape.

    Line ends and tabulators stay.
    """
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return ``text`` on one line and printable, for a cell of a table or a title."""
    return printable(re.sub(r"\s*[\r\n\x0b\x0c\x85\u2028\u2029]+\s*", " ", text).replace("\t", " "))
