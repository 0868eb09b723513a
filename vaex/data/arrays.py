"""Arrays read in blocks out of .npz and HDF5 files, which are larger unpacked than memory should hold."""

from __future__ import annotations

import contextlib
import importlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError

_BLOCK = 1 << 24  # bytes that are read at a time
_REPLACE = "replace it by the original, or delete it"


class StoredArray(NamedTuple):
    """An array in a file: shape, type, and its rows in order, some (n, ...) at a time; columns of ``columns_first``."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterator[NDArray[Any]]
    columns_first: bool = False


@contextlib.contextmanager
def stored_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open a .npz or an HDF5 file (.h5, .hdf5); what is wrong with its content while it is open is told as VaexError.

    Nothing is unpickled.

    Raises:
        VaexError: when the file is truncated, damaged or something else, or h5py is needed and missing.
    """
    try:
        if path.suffix in (".h5", ".hdf5"):
            with _h5py().File(path, "r") as content:
                yield ArrayFile(path, tuple(content), lambda name: _hdf5_array(path, content, name))
        else:
            with zipfile.ZipFile(path) as archive:
                names = tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
                yield ArrayFile(path, names, lambda name: _npy_array(path, archive, name))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise VaexError(
            f"{path} is truncated, damaged or of another kind ({str(error) or type(error).__name__}); {_REPLACE}."
        ) from error


class ArrayFile:
    """An open file of named arrays."""

    def __init__(self, path: Path, names: tuple[str, ...], read: Any) -> None:
        self.path, self.names, self._read = path, names, read

    def array(self, name: str) -> StoredArray:
        """Return an array whose blocks are to be read before the next array is asked for.

        Raises:
            VaexError: when there is none of that name, or its rows do not lie together.
        """
        found = self._stored(name)
        if found.columns_first:
            raise VaexError(
                f"'{name}' in {self.path} is stored column by column (Fortran order), but is read row by row; save it "
                "again as np.ascontiguousarray(array)."
            )
        return found

    def _stored(self, name: str) -> StoredArray:
        if name not in self.names:
            raise VaexError(f"{self.path} has no array '{name}', but {', '.join(self.names) or 'none'}; {_REPLACE}.")
        found: StoredArray = self._read(name)
        return found

    def whole(self, name: str) -> NDArray[Any]:
        """Return a small array as it is.

        Raises:
            VaexError: when there is none of that name.
        """
        shape, dtype, blocks, columns_first = self._stored(name)
        if columns_first:  # the rows of the array turned over
            shape = shape[::-1]
        found = np.concatenate([np.empty((0, *shape[1:]), dtype), *blocks])
        return np.ascontiguousarray(found.T) if columns_first else found


def _npy_array(path: Path, archive: zipfile.ZipFile, name: str) -> StoredArray:
    stream = archive.open(f"{name}.npy")
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = read(stream)
    except ValueError as error:
        raise VaexError(f"'{name}' in {path} is no array that numpy reads ({error}); {_REPLACE}.") from error
    if dtype.hasobject:
        raise VaexError(f"'{name}' in {path} holds Python objects, which are pickled and never read; {_REPLACE}.")
    if not shape:
        raise VaexError(f"'{name}' in {path} is a single number, where an array is expected; {_REPLACE}.")
    return StoredArray(shape, dtype, _npy_blocks(stream, shape[::-1] if columns_first else shape, dtype), columns_first)


def _npy_blocks(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    rows, left = max(1, _BLOCK // max(row, 1)), shape[0]
    with stream:
        while left:
            count = min(rows, left)
            content = stream.read(count * row)
            if len(content) < count * row:
                raise EOFError("it stops before its end")
            left -= count
            yield np.frombuffer(content, dtype).reshape(count, *shape[1:])
        if stream.read(1):  # the end is also where the archive's checksum is compared
            raise EOFError("an array is followed by more")


def _hdf5_array(path: Path, content: Any, name: str) -> StoredArray:
    found = content[name]
    if not getattr(found, "shape", ()):
        raise VaexError(f"'{name}' in {path} is no array; {_REPLACE}.")
    rows = (found.chunks or (1,))[0]  # a chunk is unpacked as a whole
    row = found.dtype.itemsize * int(np.prod(found.shape[1:], dtype=np.int64))
    rows *= max(1, _BLOCK // max(rows * row, 1))
    blocks = (np.asarray(found[start : start + rows]) for start in range(0, found.shape[0], rows))
    return StoredArray(tuple(found.shape), found.dtype, blocks)


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise VaexError("HDF5 files are read with h5py, which is missing: pip install h5py (extra hdf5).") from error
