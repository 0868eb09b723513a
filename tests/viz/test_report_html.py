"""Pieces of HTML: whatever a text holds, it stays a text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from vaex.viz.report_html import Markup, definitions, element, embedded_json, joined, number_text, picture, table, void

HOSTILE = "</script><script>alert('1')</script>\"' onload=x & <b>"


class Read(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_texts_and_attributes_are_escaped_once() -> None:
    read = Read(element("p", element("b", HOSTILE, title=HOSTILE), HOSTILE))
    assert read.tags == [("p", {}), ("b", {"title": HOSTILE})]
    assert read.text == 2 * HOSTILE


def test_what_would_reorder_or_hide_text_is_shown() -> None:
    read = Read(element("p", "a\u202eb\x1b", title="\u2066"))
    assert read.text == "a\\u202eb\\x1b"
    assert read.tags == [("p", {"title": "\\u2066"})]


def test_tables_and_lists_escape_what_is_in_them() -> None:
    read = Read(joined([table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, 1.0]]), definitions({HOSTILE: HOSTILE})]))
    assert {tag for tag, _ in read.tags} == {
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "dl",
        "dt",
        "dd",
    }
    assert read.text.count(HOSTILE) == 6


def test_pictures_say_what_is_to_be_seen() -> None:
    ((_, _), (tag, attributes), _) = Read(picture(b"png", HOSTILE)).tags
    assert tag == "img"
    assert attributes["alt"] == HOSTILE
    assert str(attributes["src"]).startswith("data:image/png;base64,")


def test_attributes_that_are_none_are_left_out() -> None:
    assert void("input", checked=True, disabled=False, class_=None, aria_label="x") == '<input checked aria-label="x">'


def test_json_within_a_script_ends_nothing() -> None:
    content = {"name": HOSTILE + "\u2028<!--", "values": [1.5, float("nan")]}
    text = embedded_json(content)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": content["name"], "values": [1.5, None]}


def test_the_highest_number_of_a_column_is_marked() -> None:
    text = table("t", ["a", "x", "y"], [["p", 1.0, None], ["q", 2.0, float("nan")], ["r", 0.5, 3.0]], best=True)
    marked = text.split('class="n best">')[1:]
    assert [part.partition("<")[0] for part in marked] == ["2.0000", "3.0000"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5000"),
        (0.0, "0.0000"),
        (1e-5, "1e-05"),
        (-2345.678, "-2345.7"),
        (2.5e7, "2.5e+07"),
        (float("nan"), "undefined"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text


def test_markup_is_left_as_it_is() -> None:
    assert joined([Markup("<i>"), "<i>"]) == "<i>&lt;i&gt;"
