"""PNG files: what is read back is what was written; failures leave nothing behind and say why."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vaex.errors import VaexError
from vaex.viz import figure_to_array, save_png


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_arrays_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = save_png(picture, tmp_path / "new" / "folder" / "a.png")
    assert path == tmp_path / "new" / "folder" / "a.png"
    back = np.asarray(Image.open(path))
    assert np.array_equal(back, picture[..., 0] if shape[-1] == 1 else picture)
    save_png(picture / 255.0, str(path))  # floats in [0, 1], over the old file
    assert np.array_equal(np.asarray(Image.open(path)), back)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_figures_come_back(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1), dpi=50, facecolor=(1, 0, 0))
    array = figure_to_array(figure)
    assert array.shape == (50, 100, 3)
    assert array.dtype == np.uint8
    assert (array == (255, 0, 0)).all()
    assert np.array_equal(np.asarray(Image.open(save_png(figure, tmp_path / "f.png"))), array)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_files_have_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    path = save_png(np.zeros((2, 2)), tmp_path / "a.png")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied"), (errno.EIO, "Input/output error")],
)
@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, step: str
) -> None:
    path = save_png(np.zeros((2, 2)), tmp_path / "a.png")
    old = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail) if step == "write" else patch.setattr(os, "replace", fail)
        with pytest.raises(VaexError, match=rf"a\.png' could not be written, {reason}"):
            save_png(np.ones((2, 2)), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VaexError, match="could not be written"):
        save_png(np.zeros((2, 2)), tmp_path / "file" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(VaexError, match="could not be written"):
        save_png(np.zeros((2, 2)), tmp_path / "folder.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 240 + ".png")  # the temporary name must not be longer than what a disk takes
    assert save_png(np.zeros((2, 2)), path).is_file()
    with pytest.raises(VaexError, match="too long"):
        save_png(np.zeros((2, 2)), tmp_path / ("n" * 300 + ".png"))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"must end in \.png"):
        save_png(np.zeros((2, 2)), tmp_path / "a.jpg")
    for shape in ((3, 4, 4), (2,), (2, 2, 4), (0, 2)):
        with pytest.raises(VaexError, match="put channels last"):
            save_png(np.zeros(shape), tmp_path / "a.png")
    with pytest.raises(VaexError, match="NaN"):
        save_png(np.full((2, 2), np.nan), tmp_path / "a.png")
    with pytest.raises(VaexError, match="int64"):
        save_png(np.zeros((2, 2), dtype=np.int64), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
