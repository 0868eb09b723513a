"""Manifests and ground-truth files as hypothesis and an attacker write them: records, or one sentence."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaex.data.manifest import COLUMNS, read_manifest
from vaex.data.ped1 import frame_ranges
from vaex.errors import VaexError

PIECES = st.sampled_from(
    [
        "TestVideoFile{end+1}.gt_frame",
        "gt_frame",
        "=",
        "[",
        "]",
        "60:152",
        "5",
        ":",
        ",",
        " ",
        ";",
        "%",
        "\n",
        "\t",
        "x",
        "0",
    ]
)
NAMES = st.sampled_from(
    ["a.png", "b.png", "../a.png", "/etc/passwd", "", "a\x00b", "x" * 5000, ".", "a.png/", "\ud7ff"]
)
CELLS = st.one_of(NAMES, st.text(max_size=8), st.sampled_from(["0", "1", "normal", "anomaly", "train", "test", "good"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tables")
    for name in ("a.png", "b.png"):
        Image.new("L", (4, 4)).save(place / name)
    return place


def read_or_told(read: object, *arguments: object) -> object:
    """Return what is read, or None where one sentence says why not; anything else fails the test."""
    try:
        return read(*arguments)  # type: ignore[operator]
    except VaexError:
        return None


RANGES = st.tuples(st.integers(0, 10**6), st.integers(0, 999)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=50)
@given(st.lists(st.lists(RANGES, max_size=5), max_size=5))
def test_ranges_that_were_written_are_read(folder: Path, clips: list[list[tuple[int, int]]]) -> None:
    lines = [f"TestVideoFile{{end+1}}.gt_frame = [{', '.join(f'{a}:{b}' for a, b in clip)}];" for clip in clips]
    (folder / "x.m").write_text("TestVideoFile = {};\n" + "\n".join(lines) + "\n% gt_frame = [1:2];\n")
    assert frame_ranges(folder / "x.m") == clips


@settings(max_examples=150)
@given(st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text()), st.binary(max_size=4))
def test_any_text_is_ranges_or_a_sentence(folder: Path, text: str, tail: bytes) -> None:
    (folder / "y.m").write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    found = read_or_told(frame_ranges, folder / "y.m")
    for clip in found or []:  # type: ignore[attr-defined]
        assert all(isinstance(first, int) and 0 <= first <= last for first, last in clip)


@pytest.mark.parametrize(
    "frames",
    [
        "9" * 5000,
        "152:60",
        "1:2:3",
        "-1",
        "1.5",
        "1e3",
        "0x1",
        "\u0661\u0662",
        "1;system('x')",
        "1:end",
        "'a'",
        "[1]",
        "1:",
    ],
)
def test_what_is_no_range_is_named_with_its_line(folder: Path, frames: str) -> None:
    (folder / "z.m").write_text(f"\ngt_frame = [{frames}];\n")
    with pytest.raises(VaexError, match=r"z\.m, line 2: expected gt_frame = \[60:152") as caught:
        frame_ranges(folder / "z.m")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["gt_frame = [" + " " * 200_000 + "x", "gt_frame =" + " " * 200_000, "gt_frame = [1" * 20_000]
)
def test_a_line_that_is_slow_to_match_by_mistake_is_read_at_once(folder: Path, text: str) -> None:
    """Nested repetitions would take hours for these; linear ones take milliseconds."""
    (folder / "slow.m").write_text(text)
    assert read_or_told(frame_ranges, folder / "slow.m") is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["a.png", "b.png"]), st.sampled_from([("0", 0), ("normal", 0)])),
        max_size=2,
        unique_by=lambda row: row[0],
    )
)
def test_rows_that_were_written_are_read(folder: Path, rows: list[tuple[str, tuple[str, int]]]) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([("path", "label"), *((name, label) for name, (label, _) in rows)])
    (folder / "x.csv").write_text(stream.getvalue())
    if rows:
        found = read_manifest(folder / "x.csv", folder)
        assert [(record.path.name, record.label) for record in found] == [(name, value) for name, (_, value) in rows]


@settings(max_examples=150)
@given(
    st.lists(st.one_of(st.sampled_from(COLUMNS), CELLS), max_size=6),
    st.lists(st.lists(CELLS, max_size=7), max_size=4),
    st.sampled_from([",", ";", "\t", "\x00,"]),
    st.binary(max_size=3),
)
def test_any_table_is_records_or_a_sentence(
    folder: Path, header: list[str], rows: list[list[str]], delimiter: str, tail: bytes
) -> None:
    text = "\n".join(delimiter.join(cells) for cells in [header, *rows])
    (folder / "y.csv").write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    found = read_or_told(read_manifest, folder / "y.csv", folder)
    for record in found or []:  # type: ignore[attr-defined]
        assert record.path.is_file()
        assert record.label in (0, 1)


@pytest.mark.parametrize("name", ["a\x00b.png", "x" * 5000 + ".png", "a.png/b.png", "\x1b[2J", "\n"])
def test_a_name_that_no_file_can_have_is_named_with_its_line(folder: Path, name: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([("path",), (name,)])
    (folder / "z.csv").write_bytes(stream.getvalue().encode())
    with pytest.raises(VaexError, match=r"z\.csv(, line \d+: there is no image|.*is no CSV file)"):
        read_manifest(folder / "z.csv", folder)
