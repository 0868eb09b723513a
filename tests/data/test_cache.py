"""The cache of pixels: the same content in memory and on disk, whole files only, read anew when a source changes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vaex.data.cache import MappedPixels, content_digest, gather_pixels
from vaex.errors import VaexError

SHAPE = (4, 1, 3, 5)


def content(row: int) -> NDArray[np.uint8]:
    return np.full(SHAPE[1:], 10 * row, dtype=np.uint8)


def sources(folder: Path) -> list[Path]:
    files = [folder / f"{i}.png" for i in range(4)]
    for file in files:
        file.write_bytes(file.name.encode())
    return files


def refuse(row: int) -> NDArray[np.uint8]:
    raise AssertionError(f"image {row} is read again")


def test_memory_and_disk_hold_the_same(tmp_path: Path) -> None:
    files = sources(tmp_path)
    held = gather_pixels(SHAPE, content, files)
    mapped = gather_pixels(SHAPE, content, files, tmp_path / "cache")
    expected = np.stack([content(row) for row in range(4)])
    np.testing.assert_array_equal(held, expected)
    assert isinstance(mapped, MappedPixels)
    assert mapped.shape == SHAPE
    np.testing.assert_array_equal(mapped[np.array([3, 1])], expected[[3, 1]])
    again = gather_pixels(SHAPE, refuse, files, tmp_path / "cache")
    np.testing.assert_array_equal(again[:], expected)


def test_a_copy_for_another_process_holds_no_pixels(tmp_path: Path) -> None:
    mapped = gather_pixels((4, 1, 200, 200), lambda row: np.ones((1, 200, 200), np.uint8), [], tmp_path)
    assert mapped[0].all()
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[2], mapped[2])


def test_a_changed_source_another_shape_or_name_is_read_anew(tmp_path: Path) -> None:
    files, cache = sources(tmp_path), tmp_path / "cache"
    gather_pixels(SHAPE, content, files, cache)
    os.utime(files[2], (1, 1))
    with pytest.raises(AssertionError, match="read again"):
        gather_pixels(SHAPE, refuse, files, cache)
    gather_pixels(SHAPE, content, files, cache)
    for shape, name, given in (((4, 1, 3, 4), "images", files), (SHAPE, "masks", files), (SHAPE, "images", files[:3])):
        with pytest.raises(AssertionError, match="read again"):
            gather_pixels(shape, refuse, given, cache, name)


def test_an_error_half_way_leaves_no_file(tmp_path: Path) -> None:
    def broken(row: int) -> NDArray[np.uint8]:
        if row == 2:
            raise VaexError("2.png cannot be read")
        return content(row)

    for folder in (None, tmp_path / "cache"):
        with pytest.raises(VaexError, match=r"2\.png"):
            gather_pixels(SHAPE, broken, sources(tmp_path), folder)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(VaexError, match=r"data\.cache_dir or data\.cache=memory"):
        gather_pixels(SHAPE, content, sources(tmp_path), tmp_path / "cache")


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    """Both are inside the writing at the same time: each waits for the other's first image."""
    sources(tmp_path)
    program = """
import sys, time, numpy as np
from pathlib import Path
from vaex.data.cache import gather_pixels
folder, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def read(row):
    (folder / f"began_{me}").touch()
    while not (folder / f"began_{other}").exists():
        time.sleep(0.01)
    return np.full((1, 3, 5), 10 * row, np.uint8)
pixels = gather_pixels((4, 1, 3, 5), read, [folder / f"{i}.png" for i in range(4)], folder / "cache")
assert pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), *pair]) for pair in (("a", "b"), ("b", "a"))
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_the_digest_is_of_names_and_contents_and_not_of_places(tmp_path: Path) -> None:
    first, second = tmp_path / "x", tmp_path / "y"
    for folder in (first, second):
        folder.mkdir()
        (folder / "1").write_bytes(b"one")
        (folder / "2").write_bytes(b"two")

    def digest(folder: Path, names: tuple[str, ...] = ("1", "2")) -> str:
        return content_digest([(name, folder / name) for name in names])

    assert digest(first) == digest(second) == digest(first, ("2", "1"))
    assert digest(first, ("1",)) != digest(first)
    (second / "2").write_bytes(b"twO")
    assert digest(first) != digest(second)
