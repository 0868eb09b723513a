"""The built-in data set: sprites as in dSprites on a grid of any size, drawn on demand instead of downloaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vaex.data.factors import FactorGrid
from vaex.data.grid import GridImages, GridSet
from vaex.data.render import SHAPES, check_size, draw_sprites
from vaex.errors import VaexError, unknown
from vaex.types import Batch

GRID = {"shape": 3, "scale": 6, "orientation": 9, "x": 16, "y": 16}
"""Default number of values of each factor, 41,472 images: an odd number of orientations, because with an even one the
half turn of an ellipse and the quarter turn of a square would draw the same image under two classes."""

COLORS = ("white", "random")
_VERSION = 1  # of the drawing; part of the checksum


def sprite_grid(sizes: Mapping[str, int]) -> FactorGrid:
    """Return the grid of the five sprite factors; those that ``sizes`` leaves out take their number from `GRID`.

    Raises:
        VaexError: when a factor is unknown, a size is below 1, or there are more than three shapes.
    """
    if not isinstance(sizes, Mapping):
        raise VaexError(f"data.grid must map factor names ({', '.join(GRID)}) to numbers of values, got {sizes!r}.")
    for name in sizes:
        if name not in GRID:
            raise unknown("factor in data.grid", name, GRID)
    grid = FactorGrid({**GRID, **sizes})
    counts = dict(zip(grid.names, grid.sizes, strict=True))
    if counts["shape"] > len(SHAPES):
        raise VaexError(f"data.grid.shape must be in 1..{len(SHAPES)} ({', '.join(SHAPES)}), got {counts['shape']}.")
    turns = counts["orientation"]
    return FactorGrid(counts, {"orientation": 39 if turns == 40 else turns})


def sprite_values(grid: FactorGrid) -> dict[str, NDArray[np.float64]]:
    """Values of each factor of a `sprite_grid`, evenly spaced over the ranges of dSprites.

    ``shape`` counts `SHAPES`, ``scale`` is in [0.5, 1], ``orientation`` in radians, ``x`` and ``y`` in [0, 1]. A factor
    with one value has the middle of its range, orientation 0.

    Differs: dSprites' 40 orientations include both 0 and 2 pi, the same image twice; so do 40 here, but any other
    number leaves 2 pi out.
    """
    size = dict(zip(grid.names, grid.sizes, strict=True))

    def spread(low: float, high: float, count: int) -> NDArray[np.float64]:
        return np.linspace(low, high, count) if count > 1 else np.array([(low + high) / 2])

    return {
        "shape": np.arange(size["shape"], dtype=np.float64),
        "scale": spread(0.5, 1.0, size["scale"]),
        "orientation": np.linspace(0, 2 * math.pi, size["orientation"], endpoint=size["orientation"] == 40),
        "x": spread(0.0, 1.0, size["x"]),
        "y": spread(0.0, 1.0, size["y"]),
    }


class SpriteSet(GridSet):
    """Sprites at some positions of a grid; an image depends on its position and the settings alone."""

    def __init__(
        self, grid: FactorGrid, size: int = 64, color: str = "white", noise: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(grid)
        self.size, self.color, self.noise, self.seed = size, color, noise, seed
        self._values = tuple(sprite_values(grid).values())
        self._colors = _random_colors(len(grid), seed) if color == "random" else None

    def draw(self, positions: ArrayLike) -> NDArray[np.uint8]:
        """Draw the plain sprites (N, size, size) of 0 and 1 at ``positions`` (N,) of the grid."""
        classes = np.atleast_2d(self.grid.classes(positions))
        shape, *rest = (values[classes[:, column]] for column, values in enumerate(self._values))
        scale, orientation, x, y = rest
        return draw_sprites(shape.astype(np.int64), scale, orientation, x, y, self.size)

    def gather(self, positions: NDArray[np.int64]) -> Batch:
        """Gather image (B, C, H, W) and mask (B, 1, H, W), 1 on the sprite."""
        mask = torch.from_numpy(self.draw(positions)).unsqueeze(1).float()
        image = mask.clone()
        if self._colors is not None:
            image = mask * torch.from_numpy(self._colors[positions])[:, :, None, None]  # (B, 3, H, W)
        if self.noise > 0:
            for picture, position in zip(image, positions.tolist(), strict=True):
                random = np.random.default_rng((self.seed, 2, position))
                picture += self.noise * torch.from_numpy(random.standard_normal(picture.shape, dtype=np.float32))
            image.clamp_(0, 1)
        return Batch(image=image, mask=mask)


class Sprites(GridImages):
    """dSprites on a free grid of factor values, drawn on the fly: no file, no download, exact masks and factors.

    Images are (1, size, size), or (3, size, size) when coloured, float32 in [0, 1]. ``grid`` maps factor names to
    numbers of values. ``color`` is "white", or "random" for one colour per image, each channel uniform in [0.5, 1].
    ``noise`` is the standard deviation of Gaussian noise added to every pixel, clipped to [0, 1]. ``val`` and ``test``
    images are taken from the grid at random by ``seed``, ``train`` of the others, null meaning all. Constant factors
    (of one value) are left out of ``factor_names``, ``factor_sizes`` and ``factors`` of a batch.

    Raises:
        VaexError: when a setting is unknown or out of range, or the splits ask for more images than the grid has.

    Source: L. Matthey et al., "dSprites: Disentanglement testing Sprites dataset", 2017; random colours as in
    F. Locatello et al., "Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations",
    ICML 2019.
    Differs: the default grid is coarser than that of dSprites, which is `vaex.data.DSprites`.
    """

    train_set: SpriteSet
    val_set: SpriteSet
    test_set: SpriteSet
    grid_set: SpriteSet

    def __init__(
        self,
        size: int = 64,
        grid: Mapping[str, int] | None = None,
        color: str = "white",
        noise: float = 0.0,
        train: int | None = None,
        val: int = 2048,
        test: int = 2048,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        check_size(size)
        if color not in COLORS:
            raise unknown("data.color", color, COLORS)
        _check_noise(noise)
        full = sprite_grid({} if grid is None else grid)
        super().__init__(
            full,
            (1 if color == "white" else 3, size, size),
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
        self.grid_set = SpriteSet(full, size, color, noise, seed)
        """Every image of the grid in order, of all splits."""
        self._settings = {
            "version": _VERSION,
            "size": int(size),
            "grid": dict(zip(full.names, full.sizes, strict=True)),
            "color": color,
            "noise": float(noise),
        }

    @property
    def checksum(self) -> str:
        """SHA-256 of the settings that determine the images and the splits."""
        return self._digest(**self._settings)

    def prepare_data(self) -> None:
        """Nothing to fetch: sprites are drawn."""


def _check_noise(noise: Any) -> None:
    if not isinstance(noise, int | float) or isinstance(noise, bool) or not 0 <= noise < math.inf:
        raise VaexError(f"data.noise must be a standard deviation of 0 or more, got {noise!r}.")


def _random_colors(count: int, seed: int) -> NDArray[np.float32]:
    """One bright colour per position of the grid (count, 3), each channel in [0.5, 1)."""
    random = np.random.default_rng((seed, 3))
    return 0.5 + 0.5 * random.random((count, 3), dtype=np.float32)
