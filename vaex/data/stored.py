"""Images on a grid of factors that are unpacked or drawn once and kept in memory or memory-mapped."""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from vaex.data.cache import CACHE_FOLDER, PLACES, MappedPixels, keep_pixels
from vaex.data.factors import FactorGrid
from vaex.data.grid import GridImages
from vaex.errors import VaexError, unknown

_SMALL = 1 << 30  # bytes that are kept in memory where no folder can be written
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class StoredGrid(GridImages):
    """A data module whose images are written once as rows of uint8, and read from ``cache``: disk or memory.

    A subclass says in ``row`` how many bytes an image has, and writes them in ``fill``.
    """

    row: tuple[int, ...]
    label: str  # first part of the name of the file on disk
    places: tuple[str, ...] = PLACES

    def __init__(
        self,
        grid: FactorGrid,
        shape: tuple[int, int, int],
        folder: Path,
        cache: str,
        cache_dir: str | None,
        **rest: Any,
    ) -> None:
        if cache not in self.places:
            raise unknown("data.cache", cache, self.places)
        super().__init__(grid, shape, **rest)
        self.folder, self.cache = folder, cache
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self._rows: Any = None

    @property
    def file(self) -> Path | None:
        """The file that holds the images, None where they are drawn."""
        raise NotImplementedError

    def fill(self, rows: NDArray[np.uint8]) -> None:
        """Write all images into ``rows`` (N, ...)."""
        raise NotImplementedError

    def rows(self) -> Any:
        """Return all images (N, ...) uint8, unpacked or drawn where that was not done before: array or file."""
        if self._rows is None:
            file = self.file
            shape = (len(self.full_grid), *self.row)
            self._rows = keep_pixels(shape, self.fill, [file] if file else [], self.place, self.label)
            if isinstance(self._rows, MappedPixels):
                self._rows.preread()
        return self._rows

    def prepare_data(self) -> None:
        """Write the images where they are kept on disk."""
        if self.place is not None:
            self.rows()

    @cached_property
    def place(self) -> Path | None:
        """Folder of the rows, None where they are kept in memory.

        Raises:
            VaexError: when the default folder cannot be written and the rows are large.
        """
        if self.cache == "memory":
            return None
        folder = self.cache_dir or self.folder / CACHE_FOLDER
        if self.cache_dir is not None or _may_write(folder):
            return folder
        size = len(self.full_grid) * math.prod(self.row)
        if size > _SMALL:
            raise VaexError(
                f"{folder} cannot be written, and the images take {size / 1e9:.1f} GB: set data.cache_dir to a folder "
                "with as much space, or data.cache=memory."
            )
        _log.warning("%s cannot be written: images are kept in memory; data.cache_dir names another folder.", folder)
        return None


def _may_write(folder: Path) -> bool:
    """Tell whether ``folder`` can be written or made, and whoever set its permissions means it to be."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    meant = place.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)  # the superuser may write anything
    return bool(meant) and os.access(place, os.W_OK)


def with_progress(steps: Iterable[_T], what: str, total: int) -> Iterable[_T]:
    """Yield ``steps`` and draw a bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    return track(steps, what, total=total, console=console, transient=True, disable=not console.is_terminal)
