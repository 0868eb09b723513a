"""MPI3D: colour images of an object on a robot's arm, drawn or photographed, with seven factors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vaex.data.colour_grid import ColourGrid
from vaex.errors import unknown


class Publication(NamedTuple):
    """One of the sets: its file, and how many colours and shapes its object has."""

    file: str
    colours: int
    shapes: int


PUBLICATIONS = {
    "toy": Publication("mpi3d_toy.npz", 6, 6),
    "realistic": Publication("mpi3d_realistic.npz", 6, 6),
    "real": Publication("mpi3d_real.npz", 6, 6),
    "real_complex": Publication("real3d_complicated_shapes_ordered.npz", 4, 4),
}
"""The four sets: simple and realistic drawings, photographs, and photographs of everyday objects."""


class MPI3D(ColourGrid):
    """Colour images (3, 64, 64) of MPI3D, float32 in [0, 1], from a published .npz file.

    The file holds ``images`` (1036800, 64, 64, 3) uint8, or (460800, 64, 64, 3) with four colours and shapes, in the
    order of the factors, the last varying fastest; it has no labels. It is unpacked once, into 12.7 GB of ``cache``.

    Args:
        root: folder that ``mpi3d/mpi3d_toy.npz`` ... lies in; ``${paths.data}`` in the configuration.
        name: one of `PUBLICATIONS`: toy, realistic, real, real_complex.
        grid: numbers of values of some factors, for a file that holds others than were published.
        train: images to train on; None: all that are not held out. ``val`` and ``test`` are held out by ``seed``.
        cache: where the pixels are kept: ``disk``, memory-mapped and found again by the next run, or ``memory``.
        cache_dir: folder of ``cache="disk"``; None: ``.vaex_cache`` beside the file.
        batch_size: images per training step. The remaining arguments are those of `ImageDataModule`.

    Raises:
        VaexError: when a setting is out of range, or the file is missing, damaged or does not fit.

    Source: M. W. Gondal et al., "On the Transfer of Inductive Bias from Simulation to the Real World: a New
        Disentanglement Dataset", NeurIPS 2019; https://github.com/rr-learning/disentanglement_dataset.
    """

    label = "mpi3d"
    advice = "fetch it from https://github.com/rr-learning/disentanglement_dataset, or set paths.data or VAEX_DATA"

    def __init__(
        self,
        root: str = "data",
        name: str = "toy",
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
        if name not in PUBLICATIONS:
            raise unknown("data.name", name, PUBLICATIONS)
        publication = PUBLICATIONS[name]
        self.names = (publication.file,)
        self.sizes = {
            "object_color": publication.colours,
            "object_shape": publication.shapes,
            "object_size": 2,
            "camera_height": 3,
            "background_color": 3,
            "horizontal_axis": 40,
            "vertical_axis": 40,
        }
        super().__init__(
            grid,
            Path(root) / "mpi3d",
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
