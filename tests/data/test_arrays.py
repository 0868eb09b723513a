"""Arrays read in blocks are those that were stored, and a file that is none is told."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaex.data import arrays
from vaex.data.arrays import stored_arrays
from vaex.errors import VaexError


def read(path: Path, name: str) -> Any:
    with stored_arrays(path) as file:
        found = file.array(name)
        blocks = list(found.blocks)
        assert all(block.dtype == found.dtype for block in blocks)
        return found.shape, blocks


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("block", "count"), [(1, 7), (30, 4), (1 << 20, 1)])  # 7 rows of 15 bytes
def test_blocks_are_the_rows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any, block: int, count: int
) -> None:
    monkeypatch.setattr(arrays, "_BLOCK", block)
    values = np.random.default_rng(0).integers(0, 256, (7, 3, 5), dtype=np.uint8)
    save(tmp_path / "a.npz", other=np.arange(3.0), values=values)
    shape, blocks = read(tmp_path / "a.npz", "values")
    assert shape == (7, 3, 5)
    assert len(blocks) == count
    np.testing.assert_array_equal(np.concatenate(blocks), values)
    with stored_arrays(tmp_path / "a.npz") as file:
        assert file.names == ("other", "values")
        np.testing.assert_array_equal(file.whole("other"), [0, 1, 2])


def test_hdf5_blocks_are_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    values = np.random.default_rng(0).integers(0, 256, (7, 3, 5), dtype=np.uint8)
    for chunks in (None, (2, 3, 5)):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("values", data=values, chunks=chunks)
            file.create_group("folder")
        for block in (1, 1 << 20):
            monkeypatch.setattr(arrays, "_BLOCK", block)
            shape, blocks = read(tmp_path / "a.h5", "values")
            assert shape == (7, 3, 5)
            assert len(blocks) == (1 if block > 1 else 4 if chunks else 7)
            np.testing.assert_array_equal(np.concatenate(blocks), values)
    with pytest.raises(VaexError, match=r"'folder' in .* is no array"):
        read(tmp_path / "a.h5", "folder")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:500])
    with pytest.raises(VaexError, match="truncated, damaged or of another kind"):
        read(tmp_path / "b.h5", "values")


def test_without_h5py_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(VaexError, match="pip install h5py"):
        read(tmp_path / "a.h5", "values")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", values=np.array([{"a": 1}]))
    with pytest.raises(VaexError, match="pickled"):
        read(tmp_path / "a.npz", "values")


def test_what_is_no_array_in_a_zip_file_is_not_counted_as_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("values", b"text")
    with pytest.raises(VaexError, match=r"has no array 'values', but none; replace"):
        read(tmp_path / "a.npz", "values")


def test_what_is_not_read_in_blocks_is_told_apart(tmp_path: Path) -> None:
    path, columns = tmp_path / "a.npz", np.asfortranarray(np.ones((3, 2)))
    np.savez(path, columns=columns, number=np.float64(3), things=np.array([{"a": 1}]))
    words = {
        "columns": r"stored column by column \(Fortran order\).* save it again as np\.ascontiguousarray\(array\)\.",
        "number": "is a single number, where an array is expected; replace it by the original",
        "things": "holds Python objects, which are pickled and never read; replace it by the original",
    }
    for name, told in words.items():
        with pytest.raises(VaexError, match=rf"^'{name}' in .*a\.npz .*{told}"):
            read(path, name)
    np.savez(path, columns=np.ascontiguousarray(columns))  # what the sentence advises
    assert read(path, "columns")[0] == (3, 2)


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (0, 3), (3, 0, 2)])
def test_arrays_of_columns_are_read_whole(
    shape: tuple[int, ...], block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_BLOCK", block)
    values = np.asfortranarray(np.random.default_rng(0).integers(0, 99, shape))
    np.savez(tmp_path / "a.npz", values=values)
    with stored_arrays(tmp_path / "a.npz") as file:
        found = file.whole("values")
    np.testing.assert_array_equal(found, values)
    assert (found.shape, found.dtype) == (shape, values.dtype)
    assert found.flags.c_contiguous


def test_other_content_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", values=np.arange(9))
    with pytest.raises(VaexError, match="no array 'value', but values"):
        read(tmp_path / "a.npz", "value")
    (tmp_path / "b.npz").write_text("no archive")
    with pytest.raises(VaexError, match="truncated, damaged or of another kind"):
        read(tmp_path / "b.npz", "values")
    with pytest.raises(VaexError, match="truncated, damaged or of another kind"):
        read(tmp_path / "absent.npz", "values")
