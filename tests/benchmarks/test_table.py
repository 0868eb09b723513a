"""One table as text, markdown and files."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from vaex.benchmarks.table import Table, markdown, show_table, write_results

TABLE = Table("Speed", ("", "ms"), (("vaex", "1.5"), ("a|b", "20.0")), ("One note.", "Another."))


def test_markdown() -> None:
    assert markdown(TABLE).splitlines() == [
        "## Speed",
        "",
        "|  | ms |",
        "|---|---:|",
        "| vaex | 1.5 |",
        "| a\\|b | 20.0 |",
        "",
        "One note.",
        "",
        "Another.",
    ]


def test_text_holds_every_cell_and_note() -> None:
    stream = io.StringIO()
    show_table(TABLE, Console(file=stream, width=60))
    for part in ("Speed", "ms", "vaex", "1.5", "a|b", "20.0", "One note.", "Another."):
        assert part in stream.getvalue()


def test_files(tmp_path: Path) -> None:
    content = {"machine": {"cpu": "Abacus", "platform": None, "gpus": ["G1", "G2"]}, "versions": {"torch": "9"}, "x": 1}
    document, data = write_results(tmp_path / "new", "bench_x", [TABLE, TABLE], content)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bench_x.json", "bench_x.md"]
    assert json.loads(data.read_text()) == content
    text = document.read_text()
    assert text.count("## Speed") == 2
    assert text.endswith("Machine: Abacus; G1, G2; torch 9.\n")
