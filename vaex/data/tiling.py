"""Large images in tiles: the grid that training, calibration and `vaex explain` share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaex.data.images import resized_pixels
from vaex.errors import VaexError


class Tile(NamedTuple):
    """A part of an image: rows ``top`` <= y < ``bottom``, columns ``left`` <= x < ``right``."""

    top: int
    bottom: int
    left: int
    right: int


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    regular = list(range(0, length - tile, tile - overlap))
    return [*regular, length - tile]  # the last tile ends with the image, so its overlap may be larger


def tiles_of(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Return tiles of ``tile`` x ``tile`` pixels that cover an image and share at least ``overlap`` of them.

    An image smaller than a tile is one tile in that direction.

    Raises:
        VaexError: for a tile or overlap out of range.
    """
    check_tile(tile, overlap)
    return [
        Tile(top, min(top + tile, height), left, min(left + tile, width))
        for top in _starts(height, tile, overlap)
        for left in _starts(width, tile, overlap)
    ]


def check_tile(tile: Any, overlap: Any, group: str = "") -> None:
    """Check the side of a tile and its overlap, both in pixels; ``group`` stands before their names, such as "data.".

    Raises:
        VaexError: when they are no whole numbers with 0 <= overlap <= tile / 2.
    """
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (tile, overlap))
    if not whole or tile < 1 or not 0 <= overlap <= tile // 2:
        raise VaexError(
            f"{group}tile and {group}overlap are whole pixels with 0 <= overlap <= tile / 2, got {tile} and {overlap}."
        )


def cut(pixels: NDArray[Any], part: Tile) -> NDArray[Any]:
    """Return the ``part`` of pixels (C, H, W), not copied."""
    return pixels[:, part.top : part.bottom, part.left : part.right]


def tile_pixels(pixels: NDArray[Any], part: Tile, shape: tuple[int, int]) -> NDArray[Any]:
    """Return a tile of pixels (C, H, W), grey or RGB, at ``shape`` (h, w): what a file that holds it is read as.

    Pixels are uint8, or floats in [0, 1] that were 8 bits: then so is the tile.
    """
    crop = cut(pixels, part)
    if crop.dtype == np.uint8:
        return resized_pixels(crop, shape)
    if crop.shape[1:] == shape:
        return crop
    stored = np.rint(crop * 255).clip(0, 255).astype(np.uint8)  # resized as the reader of files does: by 8 bits
    return resized_pixels(stored, shape) / np.float32(255)
