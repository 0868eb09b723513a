"""A table as LaTeX and with several columns of labels; the rest is tested with the benchmarks that show tables."""

from __future__ import annotations

import io
import re

from rich.console import Console

from vaex.reporting.table import Table, escaped, latex, markdown, show_table

TABLE = Table("50 % of a_b", ("run", "score", "m"), (("x#1", "[bold]", "0.5 ± 0.1"),), ("A & B.",), labels=2)


def test_latex() -> None:
    assert latex(TABLE).splitlines() == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{50 \% of a\_b}",
        r"  \begin{tabular}{llr}",
        r"    \toprule",
        r"    run & score & m \\",
        r"    \midrule",
        r"    x\#1 & [bold] & 0.5 $\pm$ 0.1 \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par A \& B.",
        r"\end{table}",
    ]


def test_every_special_character_is_escaped_once() -> None:
    assert escaped(r"\{}~^&%$#_") == (r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\&\%\$\#\_")


def test_labels_stand_left() -> None:
    assert markdown(TABLE).splitlines()[3] == "|---|---|---:|"


def test_text_that_looks_like_markup_is_shown() -> None:
    stream = io.StringIO()
    show_table(TABLE, Console(file=stream, width=80))
    assert "[bold]" in stream.getvalue()


EVIL = (
    "[link](http://evil) ![x](http://evil/x.png) <script>alert(1)</script> <img src=x onerror=y> `rm`",
    "a\\|b | c",
    "a\n\n| --- |\n## heading",
    "\\input{/etc/passwd} $x$ %",
    "\x1b]0;owned\x07\x1b[2Jx\u202eevil",
    "&lt; &amp;",
)


def test_markdown_shows_names_and_obeys_none() -> None:
    """Python's own markdown reader is not at hand, so that what could begin something is looked for by its rules."""
    for text in EVIL:
        table = Table(text, ("run", text), ((text, text),), (text,))
        lines = markdown(table).splitlines()
        assert len(lines) == 7  # title, blank, head, rule, row, blank, note: no line break came in
        for line in (lines[2], lines[4]):
            assert (
                len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
            )  # pipes that no backslash takes: the borders of two cells
        whole = markdown(table)
        assert "<" not in whole
        assert "](" not in whole
        assert not re.search(r"(?<!\\)(?:\\\\)*`", whole)
        assert "\x1b" not in whole


def test_latex_prints_names_and_obeys_none() -> None:
    for text in EVIL:
        whole = latex(Table(text, ("run", text), ((text, text), ("[5pt]", "x"), ("*", "y")), (text,)))
        commands = set(re.findall(r"\\[a-z]+", whole))
        frame = {r"\begin", r"\end", r"\centering", r"\caption", r"\toprule", r"\midrule", r"\bottomrule", r"\par"}
        assert commands <= frame | {r"\textbackslash", r"\textasciitilde", r"\textasciicircum"}
        assert "{[}5pt] & x" in whole
        assert "{*} & y" in whole
        assert not re.search(r"(?<!\\)[$%#]", whole)


def test_a_terminal_gets_no_commands() -> None:
    stream = io.StringIO()
    for text in EVIL:
        show_table(Table(text, ("run", text), ((text, text),), (text,)), Console(file=stream, width=400))
    assert not set(stream.getvalue()) & {"\x1b", "\x07", "\u202e"}
