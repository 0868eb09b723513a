"""Small pieces of HTML, every text in them escaped: elements, tables, definition lists, pictures."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vaex.intake import printable
from vaex.runs import strict_json


class Markup(str):
    """Text that is HTML already; everything else is escaped where it is put into an element."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Return ``text`` as HTML that shows it as it is, `Markup` unchanged; safe in attributes as well.

    What would hide or reorder other text is shown as an escape.
    """
    return text if isinstance(text, Markup) else Markup(html.escape(printable(str(text)), quote=True))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """Return an element; ``class_`` is class, an underscore in other names a hyphen; None and False are left out."""
    stated = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{stated}>{joined(content)}</{name}>")


def void(name: str, **attributes: object) -> Markup:
    """Return an element that has no content, such as ``img``."""
    return Markup(element(name, **attributes).removesuffix(f"</{name}>"))


def joined(parts: Iterable[object]) -> Markup:
    """Return the parts one after the other, escaped where they are no `Markup`."""
    return Markup("".join(escaped(part) for part in parts))


def number_text(value: float, digits: int = 4) -> str:
    """Return a number to read: "undefined" where it is not finite, an exponent where it is very small or large."""
    if not math.isfinite(value):
        return "undefined"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}g}"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.1f}"


def table(
    caption: str, columns: Sequence[object], rows: Iterable[Sequence[object]], best: bool = False, texts: int = 1
) -> Markup:
    """Return a table whose first ``texts`` columns are texts and whose others are numbers, "-" where they are None.

    ``best`` marks the highest number of each column.
    """
    body = [list(row) for row in rows]
    tops: dict[int, float] = {}
    if best and len(body) > 1:
        for position in range(texts, len(columns)):
            numbers = [row[position] for row in body]
            known = [value for value in numbers if isinstance(value, int | float) and math.isfinite(value)]
            if known:
                tops[position] = max(known)
    head = [element("th", column, scope="col", class_="n" if i >= texts else None) for i, column in enumerate(columns)]
    lines = [element("tr", *(_cell(i, cell, texts, tops) for i, cell in enumerate(row))) for row in body]
    whole = element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *lines)
    )
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _cell(position: int, value: object, texts: int, tops: Mapping[int, float]) -> Markup:
    if position < texts:
        return element("th", value, scope="row") if position == 0 else element("td", value)
    marked = "n best" if isinstance(value, int | float) and value == tops.get(position) else "n"
    shown = number_text(value) if isinstance(value, float) else "\N{EN DASH}" if value is None else value
    return element("td", shown, class_=marked)


def definitions(entries: Mapping[str, object]) -> Markup:
    """Return a list of names and what they stand for; entries that are None are left out."""
    return element(
        "dl",
        *(joined([element("dt", name), element("dd", value)]) for name, value in entries.items() if value is not None),
    )


def section(name: str, title: str, *content: object) -> Markup:
    """Return a section with its heading; ``name`` is the id that links point to."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def picture(png: bytes, text: str, kind: str = "image/png") -> Markup:
    """Return a picture within the page; ``text`` says what is to be seen."""
    source = f"data:{kind};base64,{base64.b64encode(png).decode()}"
    return element("figure", void("img", src=source, alt=text, class_="figure"), element("figcaption", text))


def embedded_json(content: Any) -> Markup:
    """Return JSON that no text in it can end or leave: it is safe between script tags. Not finite becomes null."""
    text = strict_json(content, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
