"""Every image decoded and resized once, kept as uint8 in memory or in a memory-mapped file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError

PLACES = ("memory", "disk")

_VERSION = 1  # of the pixels that the same file gives

Reader = Callable[[int], NDArray[np.uint8]]


class MappedPixels:
    """uint8 pixels in a .npy file, read where they are indexed; a copy sent to another process opens the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the whole array."""
        return tuple(self._array().shape)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        return np.asarray(self._array()[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open": None}

    def _array(self) -> Any:
        if self._open is None:
            self._open = np.load(self.path, mmap_mode="r")
        return self._open


def gather_pixels(
    shape: tuple[int, int, int, int],
    read: Reader,
    sources: Sequence[Path] = (),
    folder: Path | None = None,
    name: str = "images",
) -> Any:
    """Return ``read(i)`` (C, H, W) uint8 of i < N as ``shape`` (N, C, H, W): an array, or `MappedPixels` in ``folder``.

    On disk the name of the file tells ``name``, the shape and a digest of paths, sizes and times of ``sources``, so a
    changed image is read again. The file appears when it is whole; processes that write it at once do not disturb each
    other, and the last one wins with the same content.

    Raises:
        VaexError: when the folder cannot be written; what ``read`` raises.
    """
    if folder is None or not shape[0]:
        pixels = np.empty(shape, dtype=np.uint8)
        _fill(pixels, read)
        return pixels
    target = folder / f"{name}_{'x'.join(map(str, shape))}_{_key(sources)}.npy"
    if not target.is_file():
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            _fill(mapped, read)
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


def _fill(pixels: NDArray[np.uint8], read: Reader) -> None:
    """Read in threads, for decoding leaves Python free; the first error stops the rest."""
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for row, image in enumerate(pool.map(read, range(len(pixels)))):
                pixels[row] = image
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _key(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"version {_VERSION}".encode())
    for file in files:
        state = file.stat()
        digest.update(f"\n{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def content_digest(files: Sequence[tuple[str, Path]]) -> str:
    """Return the SHA-256 over names and contents of ``files``, which does not depend on where they lie."""
    entries = []
    for name, file in files:
        with file.open("rb") as stream:
            entries.append(name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return hashlib.sha256(b"".join(sorted(entries))).hexdigest()
