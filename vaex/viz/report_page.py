"""The page of a report: sections and data in, one HTML file out that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from vaex.viz.report_gallery import colour_tables
from vaex.viz.report_html import Markup, element, embedded_json, escaped, joined, section

TEMPLATES = Path(__file__).parent / "templates"


class Section(NamedTuple):
    """A part of the page: the id that links point to, its heading, what it holds."""

    name: str
    title: str
    content: Markup


def page(title: str, lead: object, sections: Sequence[Section], data: Mapping[str, Any], footer: object = "") -> str:
    """Return the page; ``data`` are the gallery and thresholds for its script. Texts are escaped, sections are not.

    Sections without content are left out.
    """
    kept = [part for part in sections if part.content]
    given = {"gallery": None, "pixel": None, "image": None, **data, "tables": colour_tables()}
    return Template(_text("report.html")).substitute(
        title=escaped(title),
        lead=escaped(lead),
        links=joined(element("li", element("a", part.title, href=f"#{part.name}")) for part in kept),
        sections="\n".join(section(part.name, part.title, part.content) for part in kept),
        data=embedded_json(given),
        footer=escaped(footer),
        style=_text("report.css"),
        script=_text("report_paint.js") + _text("report.js"),
    )


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
