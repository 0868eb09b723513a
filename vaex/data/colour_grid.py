"""What Shapes3D and MPI3D share: colour images of 64 x 64 pixels out of one large array, in the order of their grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaex.data.arrays import ArrayFile, stored_arrays
from vaex.data.cache import content_digest
from vaex.data.factors import FactorGrid
from vaex.data.grid import GridSet
from vaex.data.stored import StoredGrid, with_progress
from vaex.errors import VaexError, unknown
from vaex.types import Batch


class ColourSet(GridSet):
    """Colour images out of ``pixels`` (N, H, W, C) uint8 that every split shares."""

    def __init__(self, grid: FactorGrid, pixels: Any) -> None:
        super().__init__(grid)
        self.pixels = pixels

    def gather(self, positions: NDArray[np.int64]) -> Batch:
        """Gather image (B, C, H, W) float32 in [0, 1]."""
        found = np.ascontiguousarray(self.pixels[positions].transpose(0, 3, 1, 2))  # (B, C, H, W)
        return Batch(image=torch.from_numpy(found).to(torch.float32).div_(255))


class ColourGrid(StoredGrid):
    """Colour images (3, 64, 64) from the array ``images`` of one of the files ``names``, in the order of ``sizes``.

    ``grid`` maps factor names to numbers of values; those left out are the published ones. ``advice`` says where the
    file comes from.
    """

    row = (64, 64, 3)
    sizes: Mapping[str, int]
    names: tuple[str, ...]
    advice: str
    circular: tuple[str, ...] = ()
    """Factors whose last published value is followed by the first."""

    grid_set: ColourSet
    train_set: ColourSet
    val_set: ColourSet
    test_set: ColourSet

    def __init__(self, grid: Mapping[str, int] | None, folder: Path, **rest: Any) -> None:
        given = {} if grid is None else grid
        if not isinstance(given, Mapping):
            raise VaexError(f"data.grid must map factor names ({', '.join(self.sizes)}) to numbers, got {grid!r}.")
        for name in given:
            if name not in self.sizes:
                raise unknown("factor in data.grid", name, self.sizes)
        counts = {**self.sizes, **given}
        periods = {name: size for name, size in self.sizes.items() if name in self.circular and counts[name] == size}
        super().__init__(FactorGrid(counts, periods), (3, 64, 64), folder, **rest)

    @property
    def file(self) -> Path:
        """The file.

        Raises:
            VaexError: when it is not there.
        """
        found = next((path for name in self.names if (path := self.folder / name).is_file()), None)
        if found is None:
            raise VaexError(f"There is no {' or '.join(self.names)} in {self.folder}; {self.advice}.")
        return found

    @property
    def checksum(self) -> str:
        """SHA-256 over the file and the splits."""
        return self._digest(file=content_digest([(self.file.name, self.file)]))

    def setup(self, stage: str | None = None) -> None:
        """Open the images, or unpack them; take the three splits."""
        self.grid_set = ColourSet(self.full_grid, self.rows())
        super().setup(stage)

    def fill(self, rows: NDArray[np.uint8]) -> None:
        """Copy the images, which may be stored with one dimension per factor, some at a time."""
        file, start = self.file, 0
        with stored_arrays(file) as arrays:
            images = arrays.array("images")
            count = math.prod(images.shape[:-3])
            if images.dtype != np.uint8 or images.shape[-3:] != self.row or count != len(rows):
                raise VaexError(
                    f"{file} does not fit: 'images' must be uint8 of shape {rows.shape}, got {images.dtype} "
                    f"{images.shape}; data.grid says how many values each factor has."
                )
            for block in with_progress(images.blocks, "Unpacking images", rows.size >> 24):
                part = block.reshape(-1, *self.row)
                rows[start : start + len(part)] = part
                start += len(part)
            self.check_factors(arrays)

    def check_factors(self, arrays: ArrayFile) -> None:
        """Raise VaexError where the file's own factors are not in the order of the grid."""
