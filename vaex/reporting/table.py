"""One table of text, three ways out: the terminal, markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from vaex.intake import one_line

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """Rows of text under ``columns``; ``notes`` stand below, and the first ``labels`` columns hold no numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    labels: int = 1


def show_table(table: Table, console: Console) -> None:
    """Print the table; numbers, which stand in all columns but the labels, to the right."""
    shown = RichTable(title=one_line(table.title), title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(one_line(column), justify="left" if number < table.labels else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(one_line, row))
    console.print(shown, markup=False)
    for note in table.notes:
        console.print(one_line(note), highlight=False, soft_wrap=True, markup=False)


def markdown(table: Table) -> str:
    """Return the table as GitHub markdown, its title as a heading and its notes as a paragraph each."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(quoted, cells)) + " |"

    rule = "|" + "|".join("---" if n < table.labels else "---:" for n in range(len(table.columns))) + "|"
    body = [line(table.columns), rule, *(line(row) for row in table.rows)]
    notes = [part for note in table.notes for part in ("", quoted(note))]
    return "\n".join([f"## {quoted(table.title)}", "", *body, *notes, ""])


def latex(table: Table) -> str:
    """Return the table as a LaTeX table of the package booktabs, its notes below it."""

    def line(cells: Sequence[str]) -> str:
        text = " & ".join(map(escaped, cells))
        # What stands at the start would be an option of the line break or rule above it
        return "    " + (f"{{{text[0]}}}{text[1:]}" if text[:1] in ("[", "*") else text) + r" \\"

    columns = "".join("l" if number < table.labels else "r" for number in range(len(table.columns)))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escaped(table.title)}}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            line(table.columns),
            r"    \midrule",
            *(line(row) for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(f"  \\par {escaped(note)}" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


def quoted(text: str) -> str:
    """Return ``text`` so that markdown shows it as it is: no cell, link, picture, code or HTML begins in it."""
    text = re.sub(r"[\\`|]", r"\\\g<0>", one_line(text))
    return text.replace("](", "]\\(").replace("&", "&amp;").replace("<", "&lt;")


def escaped(text: str) -> str:
    """Return ``text`` so that LaTeX prints it as it is."""
    return re.sub(r"[\\~^±&%$#_{}]", lambda match: LATEX[match.group()], one_line(text))
