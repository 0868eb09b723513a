"""One table as text, markdown and files."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from vaex.benchmarks.table import Table, machine_line, markdown, read_part, show_table, write_results

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
    machine = {"cpu": "Abacus", "platform": None, "gpus": ["G1", "G2"]}
    content = {"machine": machine, "versions": {"torch": "9"}, "x": 1, "commit": "abc", "dirty": True}
    plain, document, data = write_results(tmp_path / "new", "bench_x", [TABLE, TABLE], content, ["A failed."])
    assert [path.name for path in (plain, document, data)] == ["bench_x.txt", "bench_x.md", "bench_x.json"]
    assert len(list((tmp_path / "new").iterdir())) == 3
    where = "Machine: Abacus; G1, G2; torch 9; commit abc with changes."
    assert document.read_text() == f"{markdown(TABLE)}\n{markdown(TABLE)}\nA failed.\n\n{where}\n"
    lines = plain.read_text().splitlines()
    assert lines[-3:] == ["A failed.", "", where]
    assert [line.split() for line in lines if "vaex" in line] == [["vaex", "1.5"]] * 2
    assert not any("\x1b" in line or line.endswith(" ") for line in lines)
    part = read_part(data)
    assert part.tables == [TABLE, TABLE]
    assert part.content == content


def test_a_machine_without_gpu_says_so() -> None:
    assert machine_line({"machine": {"cpu": "Abacus", "gpus": []}}) == "Machine: Abacus; no GPU."
