"""idx files: the format byte by byte, round trips, and every kind of damage."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vaex.data.idx import idx_header, read_idx, write_idx
from vaex.errors import VaexError

TYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]
ARRAYS = st.sampled_from(TYPES).flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(max_dims=4, min_side=0, max_side=5))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


def put(folder: Path, content: bytes, name: str = "x-idx") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def encoded(array: NDArray[Any]) -> bytes:
    return idx_header(array) + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "letter", "name"),
    [
        (8, "B", "uint8"),
        (9, "b", "int8"),
        (11, "h", "int16"),
        (12, "i", "int32"),
        (13, "f", "float32"),
        (14, "d", "float64"),
    ],
)
def test_a_file_packed_by_struct_is_read_and_written_alike(folder: Path, code: int, letter: str, name: str) -> None:
    values = [1, 2, 3, 4, 5, 100]
    content = struct.pack(f">BBBBII6{letter}", 0, 0, code, 2, 2, 3, *values)
    array = read_idx(put(folder, content))
    assert array.dtype == np.dtype(name)
    assert array.dtype.isnative
    assert array.tolist() == [values[:3], values[3:]]
    assert write_idx(folder / "again", array).read_bytes() == content


@settings(deadline=None)
@given(array=ARRAYS, packed=st.booleans(), big=st.booleans())
def test_round_trip(folder: Path, array: NDArray[Any], packed: bool, big: bool) -> None:
    given = array.astype(array.dtype.newbyteorder(">")) if big else array
    found = read_idx(write_idx(folder / ("x.gz" if packed else "x"), given))
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_a_strided_view_is_written_in_its_own_order(tmp_path: Path) -> None:
    view = np.arange(24, dtype=np.int16).reshape(4, 6).T[::2]
    np.testing.assert_array_equal(read_idx(write_idx(tmp_path / "x", view)), view)


def test_packing_is_told_by_content_and_repeatable(tmp_path: Path) -> None:
    array = np.arange(10, dtype=np.uint8)
    packed = write_idx(tmp_path / "a.gz", array)
    assert gzip.decompress(packed.read_bytes()) == b"\0\0\x08\x01\0\0\0\x0a" + bytes(range(10))
    assert packed.read_bytes()[4:8] == bytes(4)  # the field of the time
    assert write_idx(tmp_path / "b.gz", array).read_bytes() == packed.read_bytes()
    np.testing.assert_array_equal(read_idx(put(tmp_path, packed.read_bytes(), "no-suffix")), array)
    np.testing.assert_array_equal(read_idx(put(tmp_path, encoded(array), "plain.gz")), array)


@settings(deadline=None)
@given(array=ARRAYS, data=st.data())
def test_a_changed_byte_is_refused_or_read_as_what_it_now_says(
    folder: Path, array: NDArray[Any], data: st.DataObject
) -> None:
    content = bytearray(encoded(array))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = read_idx(put(folder, bytes(content)))
    except VaexError:
        return
    assert encoded(found) == content


@settings(deadline=None)
@given(array=ARRAYS, data=st.data())
def test_a_changed_byte_in_gzip_is_refused_or_harmless(folder: Path, array: NDArray[Any], data: st.DataObject) -> None:
    content = bytearray(gzip.compress(encoded(array), mtime=0))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = read_idx(put(folder, bytes(content)))
    except VaexError:
        return
    assert encoded(found) == encoded(array)


@settings(deadline=None)
@given(array=ARRAYS, packed=st.booleans(), data=st.data())
def test_every_truncation_is_refused(folder: Path, array: NDArray[Any], packed: bool, data: st.DataObject) -> None:
    content = gzip.compress(encoded(array)) if packed else encoded(array)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(VaexError, match="cut short"):
        read_idx(put(folder, content[:cut]))


@settings(deadline=None)
@given(content=st.binary(max_size=64), packed=st.booleans())
def test_arbitrary_bytes_never_raise_anything_else(folder: Path, content: bytes, packed: bool) -> None:
    try:
        found = read_idx(put(folder, gzip.compress(content) if packed else content))
    except VaexError:
        return
    assert encoded(found) == content


def packed_always_alike(content: bytes) -> bytes:
    """Return ``content`` as gzip without the time, which would be in the names of the tests."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", r"magic number is 0x89504e47"),
        (b"\0\0\x0a\x01" + b"\0\0\0\0", r"unknown type 0x0a; it must be uint8, int8"),
        (b"\0\0\x08\0", r"announces 0 dimensions"),
        (b"\0\0\x08\xff" + bytes(4 * 255), r"announces 255 dimensions"),
        (b"\0\0\x08", r"expected 4 bytes of the magic number, found 3"),
        (b"\0\0\x08\x03" + bytes(7), r"expected 16 bytes of the header, found 11"),
        (struct.pack(">BBBBI", 0, 0, 12, 1, 5) + bytes(7), r"expected 20 bytes of the data, found 7"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 5) + bytes(6), r"goes on after the 5 bytes"),
        (packed_always_alike(struct.pack(">BBBBI", 0, 0, 8, 1, 5) + bytes(6)), r"goes on after the 5 bytes"),
        (packed_always_alike(encoded(np.zeros(9, np.uint8)))[:-9], r"gzip file .* cut short"),
        (packed_always_alike(encoded(np.zeros(9, np.uint8)))[:-8] + bytes(8), r"gzip file .* damaged"),
        (packed_always_alike(encoded(np.zeros(9, np.uint8))) + b"more", r"gzip file .* damaged"),
    ],
)
def test_each_defect_is_named_with_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(VaexError, match=message) as caught:
        read_idx(put(tmp_path, content))
    assert str(tmp_path / "x-idx") in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"There is no idx file .*absent"):
        read_idx(tmp_path / "absent")
    with pytest.raises(VaexError, match=r"cannot be read: Is a directory"):
        read_idx(tmp_path)


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (0, 2**32 - 1, 2**32 - 1), (2**31, 3)])
def test_a_header_over_the_limit_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    with pytest.raises(VaexError, match=r"more than the limit of 4294967296 bytes"):
        read_idx(put(tmp_path, header))


def test_the_limit_can_be_lowered(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "x", np.zeros(100, np.int32))
    assert read_idx(path, size_limit=400).shape == (100,)
    with pytest.raises(VaexError, match=r"100 values of 4 bytes, more than the limit of 399"):
        read_idx(path, size_limit=399)


@pytest.mark.parametrize("packed", [False, True])
def test_a_boastful_header_allocates_nothing(tmp_path: Path, packed: bool) -> None:
    content = struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1) + bytes(10)
    path = put(tmp_path, gzip.compress(content) if packed else content)
    tracemalloc.start()
    try:
        with pytest.raises(VaexError, match=r"expected 4294967295 bytes of the data, found 10"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("array", [np.zeros(2, np.int64), np.zeros(2, bool), np.array(["a"]), np.zeros((), np.uint8)])
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, array: NDArray[Any]) -> None:
    with pytest.raises(VaexError, match="An idx file cannot hold"):
        write_idx(tmp_path / "x", array)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_idx(tmp_path / "x", np.arange(3, dtype=np.uint8))
    before = path.read_bytes()

    def full(*_: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(VaexError, match=r"Cannot write the idx file .*: No space left on device"):
        write_idx(path, np.arange(9, dtype=np.uint8))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"No such file or directory"):
        write_idx(tmp_path / "absent" / "x", np.zeros(1, np.uint8))
