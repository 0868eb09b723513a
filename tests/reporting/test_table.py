"""A table as LaTeX and with several columns of labels; the rest is tested with the benchmarks that show tables."""

from __future__ import annotations

import io

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
