"""Reading and writing idx files, the format of MNIST: a four-byte magic number, the sizes, then the values."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError

SIZE_LIMIT = 2**32
"""Most bytes that `read_idx` accepts unless told otherwise: 4 GiB, 90 times the largest file of MNIST."""

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(text).newbyteorder("="): code for code, text in _TYPES.items()}
_TYPE_NAMES = "uint8, int8, int16, int32, float32 or float64"
_MOST_DIMENSIONS = 32  # what numpy 1 can hold
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], size_limit: int = SIZE_LIMIT) -> NDArray[Any]:
    """Return the array of an idx file, packed with gzip or not, in the byte order of this machine.

    Whether the file is packed is told by its first bytes, not by its name. Memory grows with the bytes that
    are really there, so a header or an archive that announces more than it holds costs nothing.

    Raises:
        VaexError: when the file is missing, unreadable, not idx, of an unknown type, cut short, longer than
            its header says, damaged inside gzip, or announces more than ``size_limit`` bytes.

    Source: "The IDX file format", http://yann.lecun.com/exdb/mnist/, copied in README.md of the GitHub repository
        cvdfoundation/mnist.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _parse(raw, path, size_limit)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                return _parse(unpacked, path, size_limit)
    except FileNotFoundError:
        raise VaexError(f"There is no idx file {path}; check the folder and the name.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VaexError(
            f"The gzip file {path} is damaged or cut short ({error}); delete it and fetch it again."
        ) from None
    except OSError as error:
        raise VaexError(
            f"The idx file {path} cannot be read: {error.strerror or error}; check its permissions."
        ) from None


def _parse(stream: IO[bytes] | gzip.GzipFile, path: Path, size_limit: int) -> NDArray[Any]:
    start = _up_to(stream, 4)
    if len(start) < 4:
        raise _cut(path, "the magic number", 4, len(start))
    if start[:2] != b"\0\0":
        raise VaexError(
            f"{path} is not an idx file: its magic number is 0x{start.hex()}, but two zero bytes must come first; "
            "fetch the original file."
        )
    code, dimensions = start[2], start[3]
    if code not in _TYPES:
        raise VaexError(f"The idx file {path} has the unknown type 0x{code:02x}; it must be {_TYPE_NAMES}.")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise VaexError(f"The idx file {path} announces {dimensions} dimensions; it must have 1 to {_MOST_DIMENSIONS}.")
    sizes = _up_to(stream, 4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise _cut(path, "the header", 4 + 4 * dimensions, 4 + len(sizes))
    shape = struct.unpack(f">{dimensions}I", sizes)
    dtype = np.dtype(_TYPES[code])
    # An empty array may still have a side that numpy cannot address, hence the sides without the zeros.
    if math.prod(side for side in shape if side) * dtype.itemsize > size_limit:
        raise VaexError(
            f"The idx file {path} announces {' x '.join(map(str, shape))} values of {dtype.itemsize} bytes, more than "
            f"the limit of {size_limit} bytes; its header is damaged, or raise size_limit."
        )
    expected = math.prod(shape) * dtype.itemsize
    data = _up_to(stream, expected)
    if len(data) < expected:
        raise _cut(path, "the data", expected, len(data))
    if stream.read(1):  # reading to the end also makes gzip compare its checksum
        raise VaexError(
            f"The idx file {path} goes on after the {expected} bytes of data that its header announces; "
            "fetch the original file."
        )
    values: NDArray[Any] = np.frombuffer(data, dtype)
    return values.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _up_to(stream: IO[bytes] | gzip.GzipFile, count: int) -> bytearray:
    """Read ``count`` bytes, or what there is, without allocating for bytes that are not there."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.read(min(_CHUNK, count - len(data)))
        if not chunk:
            break
        data += chunk
    return data


def _cut(path: Path, part: str, expected: int, found: int) -> VaexError:
    return VaexError(
        f"The idx file {path} is cut short: expected {expected} bytes of {part}, found {found}; "
        "delete it and fetch it again."
    )


def idx_header(array: NDArray[Any]) -> bytes:
    """Return the magic number and the sizes that stand before the values of ``array`` in an idx file.

    Raises:
        VaexError: when the format has no code for the type, or cannot hold the shape.
    """
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise VaexError(f"An idx file cannot hold {array.dtype}; convert the array to {_TYPE_NAMES}.")
    if not 1 <= array.ndim <= _MOST_DIMENSIONS or max(array.shape) >= 2**32:
        raise VaexError(
            f"An idx file cannot hold the shape {array.shape}; it takes 1 to {_MOST_DIMENSIONS} dimensions below 2**32."
        )
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)


def write_idx(path: str | os.PathLike[str], array: NDArray[Any]) -> Path:
    """Write ``array`` as an idx file, packed when the name ends in ``.gz``, in one step that cannot leave half a file.

    The same array always gives the same bytes, because gzip gets no time and no name.

    Raises:
        VaexError: when the format cannot hold the array, or the folder cannot be written.
    """
    path = Path(path)
    header = idx_header(array)
    data = np.ascontiguousarray(array, array.dtype.newbyteorder(">")).tobytes()
    content = gzip.compress(header + data, mtime=0) if path.suffix == ".gz" else header + data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise VaexError(f"Cannot write the idx file {path}: {error.strerror or error}; check the folder.") from None
    return path
