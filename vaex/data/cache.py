"""Images decoded, unpacked or drawn once, kept as uint8 in memory or in a memory-mapped file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError

PLACES = ("memory", "disk")

CACHE_FOLDER = ".vaex_cache"
"""Folder below the data's own that ``cache="disk"`` writes to, unless ``cache_dir`` names another."""

_VERSION = 2  # of the pixels that the same file gives

Reader = Callable[[int], NDArray[np.uint8]]
Filler = Callable[[NDArray[np.uint8]], None]


def pick_rows(pixels: NDArray[np.uint8], rows: Any) -> NDArray[np.uint8]:
    """Return ``pixels[rows]``, in half the time where ``rows`` is an array of positions."""
    if isinstance(rows, np.ndarray) and rows.dtype.kind == "i":
        return pixels.take(rows, axis=0)
    return np.asarray(pixels[rows])


class MappedPixels:
    """uint8 pixels in a .npy file, read where they are indexed; a copy sent to another process opens the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the whole array."""
        return tuple(self._array().shape)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        return pick_rows(self._array(), rows)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open": None}

    def _array(self) -> NDArray[np.uint8]:
        if self._open is None:
            try:
                self._open = np.asarray(np.load(self.path, mmap_mode="r"))  # a plain array is indexed faster
            except (OSError, ValueError, EOFError) as error:
                raise VaexError(f"{self.path} cannot be read ({error}); delete it, and it is made anew.") from error
        return self._open

    def preread(self) -> None:
        """Ask the system to read the whole file ahead, so that random access does not wait for the disk."""
        if hasattr(os, "posix_fadvise"):
            with self.path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def gather_pixels(
    shape: tuple[int, int, int, int],
    read: Reader,
    sources: Sequence[Path] = (),
    folder: Path | None = None,
    name: str = "images",
    counts: Sequence[int] | None = None,
) -> Any:
    """Return ``read(i)`` (C, H, W) uint8 of i < N as ``shape`` (N, C, H, W), kept as `keep_pixels` says.

    With ``counts``, which add up to N, ``read(i)`` of i < len(counts) gives so many of them, (counts[i], C, H, W).
    """
    rows = range(shape[0] + 1) if counts is None else [0, *accumulate(counts)]
    return keep_pixels(shape, lambda pixels: _fill(pixels, read, rows), sources, folder, name)


def keep_pixels(
    shape: tuple[int, ...],
    fill: Filler,
    sources: Sequence[Path] = (),
    folder: Path | None = None,
    name: str = "images",
) -> Any:
    """Return what ``fill`` writes into an array of ``shape`` (N, ...): the array, or `MappedPixels` in ``folder``.

    On disk the name of the file tells ``name``, the shape and a digest of paths, sizes and times of ``sources``, so a
    changed image is read again. The file appears when it is whole; processes that write it at once do not disturb each
    other, and the last one wins with the same content.

    Raises:
        VaexError: when the folder cannot be written; what ``fill`` raises.
    """
    if folder is None or not shape[0]:
        pixels = np.empty(shape, dtype=np.uint8)
        fill(pixels)
        return pixels
    target = folder / f"{name}_{'x'.join(map(str, shape))}_{_key(sources)}.npy"
    if not target.is_file():
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            fill(mapped)
            mapped.flush()
            del mapped
            temporary.replace(target)
        except OSError as error:
            raise VaexError(
                f"Cannot write {target} ({error.strerror or error}); free space, or set data.cache_dir or "
                "data.cache=memory."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return MappedPixels(target)


def _fill(pixels: NDArray[np.uint8], read: Reader, rows: Sequence[int]) -> None:
    """Read in threads, for decoding leaves Python free; the first error stops the rest.

    Each puts what it read in its place, ``rows[i]`` to ``rows[i + 1]``, so that nothing waits in memory.
    """

    def put(item: int) -> None:
        pixels[rows[item] : rows[item + 1]] = read(item)

    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in pool.map(put, range(len(rows) - 1)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _key(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"version {_VERSION}".encode())
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            raise _unreadable(file, error) from error
        digest.update(f"\n{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def content_digests(files: Iterable[Path]) -> dict[Path, bytes]:
    """Return the SHA-256 of the content of each of ``files``.

    Raises:
        VaexError: when one cannot be read.
    """
    found = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                found[file] = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise _unreadable(file, error) from error
    return found


def _unreadable(file: Path, error: OSError) -> VaexError:
    return VaexError(f"{file} cannot be read ({error.strerror or error}); mend or remove it.")


def content_digest(files: Sequence[tuple[str, Path]], digests: Mapping[Path, bytes] | None = None) -> str:
    """Return the SHA-256 over names and contents of ``files``, which does not depend on where they lie.

    ``digests`` are those of the contents, where they are known.
    """
    known = content_digests(file for _, file in files) if digests is None else digests
    entries = [name.encode() + b"\0" + known[file] for name, file in files]
    return hashlib.sha256(b"".join(sorted(entries))).hexdigest()
