"""Many small pictures on one canvas: resizing, outlines of masks, grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vaex.errors import VaexError
from vaex.viz.overlays import Array, Pixels, to_uint8

SEPARATOR = 128
"""Grey between the tiles of a grid, seen beside black and beside white images."""

OUTLINE = (0, 229, 255)
"""Cyan, which neither grey images nor the default colour maps contain."""


def image_grid(images: Array, columns: int | None = None, *, scale: int | None = None) -> Pixels:
    """Return images side by side with thin grey separators, as in traversals: (h, w, 3) uint8.

    ``images`` (N, C, H, W) float in [0, 1], clipped, filled row by row. ``columns`` per row; None: as near to a square
    as may be. Every pixel becomes ``scale`` by ``scale`` pixels; None: the least that makes an image 64 pixels wide
    and high.

    Raises:
        VaexError: no images, a wrong shape, or a number below 1.
    """
    tiles = to_tiles(images, "images")
    count, height, width = tiles.shape[:3]
    columns = int(np.ceil(np.sqrt(count))) if columns is None else columns
    scale = -(-64 // min(height, width)) if scale is None else scale
    if columns < 1 or scale < 1:
        raise VaexError(f"A grid needs at least 1 column and scale 1, got columns={columns} and scale={scale}.")
    columns, gap = min(columns, count), 2
    rows = -(-count // columns)
    high, wide = height * scale + gap, width * scale + gap  # of a tile with its separator
    canvas = np.full((rows * high + gap, columns * wide + gap, 3), SEPARATOR, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * high + gap, number % columns * wide + gap
        canvas[top : top + high - gap, left : left + wide - gap] = resize(tile, (height * scale, width * scale))
    return canvas


def to_tiles(images: Array, name: str) -> Pixels:
    """Return images (N, C, H, W) as RGB (N, H, W, 3) uint8; other than 1 or 3 channels are averaged to grey.

    Raises:
        VaexError: no image, or a wrong shape; ``name`` is for the message.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0:
        raise VaexError(f"The {name} to draw must be (N, C, H, W) with at least one image, got {images.shape}.")
    if images.shape[1] not in (1, 3):
        images = images.mean(axis=1, keepdims=True)
    return np.broadcast_to(np.moveaxis(to_uint8(images), 1, 3), (len(images), *images.shape[2:], 3))


def fit(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return (H, W) enlarged by the largest whole factor, or reduced, so that neither side is above ``longest``."""
    factor = longest / max(size)
    if factor >= 1:
        return size[0] * int(factor), size[1] * int(factor)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(tile: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the tile (H, W[, 3]) at (H, W) = ``size``: pixels stay squares if enlarged, are averaged if reduced."""
    if tile.shape[:2] == size:
        return tile
    enlarged = size[0] >= tile.shape[0] and size[1] >= tile.shape[1]
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    return np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize((size[1], size[0]), how))


def in_blocks(values: Array, size: tuple[int, int], combine: np.ufunc) -> Array:
    """Return values (H, W[, C]) at ``size`` (h, w), not larger: of blocks that cover them, each combined into one."""
    for axis, length in enumerate(size):
        starts = np.arange(length) * values.shape[axis] // length
        values = combine.reduceat(values, starts, axis=axis)
    return values


def framed(tile: Pixels, box: tuple[int, int, int, int], thickness: int = 2) -> Pixels:
    """Return the tile (H, W, 3) with a line just inside ``box`` (x0, y0, x1, y1), which may be all of it."""
    picture = Image.fromarray(tile)
    left, top, right, bottom = box
    corners = (left, top, max(right - 1, left), max(bottom - 1, top))
    ImageDraw.Draw(picture).rectangle(corners, outline=OUTLINE, width=thickness)
    return np.asarray(picture).copy()


def outlined(tile: Pixels, mask: NDArray[np.bool_], thickness: int = 2) -> Pixels:
    """Return the tile (H, W, 3) with a line just outside the mask (H, W), so that what it encloses stays visible."""
    size = tile.shape[:2]
    inside = resize(np.asarray(mask, dtype=np.uint8) * 255, (size[0], size[1])) > 0  # reduced: any pixel counts
    grown = np.pad(inside, thickness)
    for _ in range(thickness):
        grown[1:-1, 1:-1] = grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    line = grown[thickness:-thickness, thickness:-thickness] & ~inside
    return np.where(line[..., None], np.array(OUTLINE, dtype=np.uint8), tile)
