"""3D Shapes: 480,000 colour images of one object in a room, with six factors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vaex.data.arrays import ArrayFile
from vaex.data.colour_grid import ColourGrid
from vaex.errors import VaexError

SIZES = {"floor_hue": 10, "wall_hue": 10, "object_hue": 10, "scale": 8, "shape": 4, "orientation": 15}


class Shapes3D(ColourGrid):
    """Colour images (3, 64, 64) of 3D Shapes, float32 in [0, 1], from ``3dshapes.h5``.

    The file holds ``images`` (480000, 64, 64, 3) uint8 and ``labels`` (480000, 6), the values of the factors, whose
    order is compared with the grid's. It is read once, into 5.9 GB of ``cache``, because its chunks make reading single
    images slow. The same arrays as ``3dshapes.npz`` will do, without h5py.

    Args:
        root: folder that ``3dshapes/3dshapes.h5`` lies in; ``${paths.data}`` in the configuration.
        grid: numbers of values of some factors, for a file that holds fewer than were published.
        train: images to train on; None: all that are not held out. ``val`` and ``test`` are held out by ``seed``.
        cache: where the pixels are kept: ``disk``, memory-mapped and found again by the next run, or ``memory``.
        cache_dir: folder of ``cache="disk"``; None: ``.vaex_cache`` beside the file.
        batch_size: images per training step. The remaining arguments are those of `ImageDataModule`.

    Raises:
        VaexError: when a setting is out of range, the file is missing, damaged or does not fit, or h5py is missing.

    Source: C. Burgess, H. Kim, "3D Shapes Dataset", https://github.com/google-deepmind/3d-shapes, 2018.
    """

    sizes, label, circular = SIZES, "shapes3d", ("floor_hue", "wall_hue", "object_hue")
    names = ("3dshapes.h5", "3dshapes.npz")
    advice = "fetch https://storage.googleapis.com/3d-shapes/3dshapes.h5 (0.27 GB), or set paths.data or VAEX_DATA"

    def __init__(
        self,
        root: str = "data",
        grid: Mapping[str, int] | None = None,
        train: int | None = None,
        val: int = 2048,
        test: int = 2048,
        cache: str = "disk",
        cache_dir: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            grid,
            Path(root) / "3dshapes",
            cache=cache,
            cache_dir=cache_dir,
            train=train,
            val=val,
            test=test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=drop_last,
            seed=seed,
        )

    def check_factors(self, arrays: ArrayFile) -> None:
        """Compare the ranks of ``labels`` among the values of their factor with the grid's classes."""
        labels = arrays.whole("labels")
        names, expected = self.full_grid.names, self.full_grid.classes(np.arange(len(self.full_grid)))
        if labels.shape != expected.shape:
            raise VaexError(f"{arrays.path} does not fit: 'labels' must be {expected.shape}, got {labels.shape}.")
        for name, values, classes in zip(names, labels.T, expected.T, strict=True):
            if not np.array_equal(np.unique(values, return_inverse=True)[1], classes):
                raise VaexError(
                    f"{arrays.path} does not fit: '{name}' in 'labels' is not in the order of {', '.join(names)}, the "
                    "last fastest."
                )
