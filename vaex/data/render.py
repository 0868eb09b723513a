"""dSprites drawn with numpy: filled polygons without antialiasing, placed as in the original data set."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaex.data.factors import integers
from vaex.errors import VaexError

SHAPES = ("square", "ellipse", "heart")
SIZES = (16, 256)
"""Smallest and largest image side in pixels."""

_UNIT = 256  # vertices lie on a lattice of 1/256 pixel, so all that follows the rounding is exact
_BLOCK = 256  # images drawn at a time: few enough to stay in the processor's cache, enough to hide numpy's overhead

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


class _Edges(NamedTuple):
    """Polygon edges that pass at least one row of pixel centres; one number per edge.

    In row r the edge crosses the column (offset + r * slope) / scale, in pixels measured from the first pixel centre.
    """

    offset: Floats
    slope: Floats
    scale: Floats
    row: Ints  # first row that is passed
    rows: Ints  # how many are passed
    image: Ints


def draw_sprites(
    shape: ArrayLike, scale: ArrayLike, orientation: ArrayLike, x: ArrayLike, y: ArrayLike, size: int = 64
) -> NDArray[np.uint8]:
    """Draw sprites (N, size, size) of 0 and 1 from five arrays (N,) of factor values, which are broadcast.

    ``shape`` is a position in `SHAPES`, ``scale`` is relative (dSprites: 0.5 to 1), ``orientation`` is in radians,
    ``x`` and ``y`` are in [0, 1] over the middle half of the image, y downwards. With ``size`` 64 the images are those
    of dSprites; with another one the same geometry is drawn on the finer or coarser raster.

    Raises:
        VaexError: when a shape, a scale or ``size`` is out of range, a value is not finite, or lengths differ.

    Source: L. Matthey et al., "dSprites: Disentanglement testing Sprites dataset", 2017; the drawing rule was fitted to
    463 published images and draws each of them bit for bit.
    Differs: all 737,280 images together have 128,328,864 white pixels, the original 128,328,862 (from its published
    mean), so at least two pixels of 3.0 billion are not those of the original.
    """
    check_size(size)
    kinds, *values = _checked(shape, scale, orientation, x, y)
    lines = np.empty((len(kinds), size * _words(size)), np.uint64)
    for start in range(0, len(kinds), _BLOCK):
        block = slice(start, start + _BLOCK)
        lines[block] = _draw(size, kinds[block], *(value[block] for value in values))
    return _unpack(lines, size)


def fill_polygons(x: ArrayLike, y: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Fill N polygons by the even-odd rule: (N, size, size) of 0 and 1, 1 where the pixel's centre is inside.

    ``x`` and ``y`` (N, V) are vertices in units of 1/256 pixel, y downwards, (0, 0) being the image's top left corner;
    they may lie outside the image. A centre that lies exactly on a left or a bottom edge is inside, on a right or a top
    edge outside.

    Raises:
        VaexError: when the vertices are no whole numbers or the shapes of ``x`` and ``y`` differ.
    """
    across, down = integers("Polygon vertices", x), integers("Polygon vertices", y)
    if across.shape != down.shape or across.ndim != 2:
        raise VaexError(f"Polygon vertices must be two arrays (N, V), got shapes {across.shape} and {down.shape}.")
    if across.size == 0:
        return np.zeros((len(across), size, size), np.uint8)
    edges = _edges(across.astype(np.float64), down.astype(np.float64), np.arange(len(across)), size)
    return _unpack(_fill(edges, len(across), size), size)


def example_sprites(count: int, size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Draw ``count`` sprites (N, size, size) of 0 and 1 with random factor values, the same for the same ``seed``."""
    random = np.random.default_rng(seed)
    shape = random.integers(len(SHAPES), size=count)
    low, high = (0.5, 0.0, 0.0, 0.0), (1.0, 2 * math.pi, 1.0, 1.0)
    scale, orientation, x, y = random.uniform(low, high, (count, 4)).T
    return draw_sprites(shape, scale, orientation, x, y, size)


def check_size(size: Any) -> None:
    """Raise VaexError unless ``size`` is an image side that can be drawn."""
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or not SIZES[0] <= size <= SIZES[1]:
        raise VaexError(f"The image size must be a whole number of pixels in {SIZES[0]}..{SIZES[1]}, got {size!r}.")


def _checked(shape: ArrayLike, *factors: ArrayLike) -> tuple[NDArray[Any], ...]:
    kinds = np.atleast_1d(integers("Sprite shapes", shape))
    values = [np.asarray(factor, np.float64) for factor in factors]
    try:
        kinds, *values = np.broadcast_arrays(kinds, *values)
    except ValueError as error:
        lengths = ", ".join(str(np.shape(factor)) for factor in (shape, *factors))
        raise VaexError(f"Sprite factors must be numbers or arrays of one length, got shapes {lengths}.") from error
    if kinds.ndim != 1:
        raise VaexError(f"Sprite factors must be numbers or arrays (N,), got {kinds.ndim} dimensions; flatten them.")
    if not all(np.isfinite(value).all() for value in values):
        raise VaexError("Sprite scale, orientation, x and y must be finite numbers; check for NaN or infinity.")
    if kinds.size and (kinds.min() < 0 or kinds.max() >= len(SHAPES)):
        wrong = kinds.min() if kinds.min() < 0 else kinds.max()
        raise VaexError(f"Sprite shapes must be in 0..{len(SHAPES) - 1} ({', '.join(SHAPES)}), got {wrong}.")
    if (values[0] <= 0).any():
        raise VaexError(f"Sprite scales must be above 0, got {values[0].min()}.")
    return kinds, *values


@cache
def _outlines() -> tuple[Floats, ...]:
    """Vertices (2, V) of each shape around its origin, in pixels of the 64-pixel image at scale 1."""
    a = np.arange(100) * 2 * math.pi / 100
    ellipse = np.stack((1.33 * np.cos(a), np.sin(a) / 1.33))
    a = np.arange(150) * 2 * math.pi / 150
    height = (13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)) / 14.5
    heart = np.stack((np.sin(a) ** 3, -(height + 0.15)))
    square = np.array(((-1.0, 1.0, 1.0, -1.0), (-1.0, -1.0, 1.0, 1.0)))
    return square * 9.6, ellipse * 9.6, heart * 9.6


def _draw(size: int, shape: Ints, scale: Floats, orientation: Floats, x: Floats, y: Floats) -> Words:
    unit = _UNIT * size / 64
    center_x, center_y = (16 + 32 * x) * unit, (16 + 32 * y) * unit
    cos, sin = np.cos(orientation) * scale * unit, np.sin(orientation) * scale * unit
    parts = []
    for kind, (u, v) in enumerate(_outlines()):
        image = np.flatnonzero(shape == kind)
        if image.size:
            c, s = cos[image, None], sin[image, None]
            across = np.rint(c * u + s * v + center_x[image, None])  # (N, V)
            down = np.rint(c * v - s * u + center_y[image, None])
            parts.append(_edges(across, down, image, size))
    return _fill(_Edges(*(np.concatenate(column) for column in zip(*parts, strict=True))), len(shape), size)


def _edges(x: Floats, y: Floats, image: Ints, size: int) -> _Edges:
    """Edges of polygons with whole-numbered vertices (N, V), those that pass no row of pixel centres left out."""
    vertices = x.shape[1]
    half = _UNIT // 2
    # A vertex at or below the centres of rows 0..k-1 has row k: an edge then passes the rows between those of its ends,
    # and a centre level with the lower end belongs to the edge (bottom inclusive), one level with the upper does not.
    row = np.clip((y.astype(np.int64) + half) >> 8, 0, size)
    start = np.flatnonzero(row != np.concatenate((row[:, 1:], row[:, :1]), axis=1))
    polygon, corner = np.divmod(start, vertices)
    end = np.where(corner == vertices - 1, start - corner, start + 1)
    x, y, row = x.ravel(), y.ravel(), row.ravel()
    x0, y0, row0, row1 = x[start], y[start], row[start], row[end]
    dx, dy = x[end] - x0, y[end] - y0
    offset = (x0 - half) * dy + (half - y0) * dx
    first = np.minimum(row0, row1)
    return _Edges(offset, _UNIT * dx, _UNIT * dy, first, np.abs(row1 - row0), image[polygon])


def _words(size: int) -> int:
    """Words of 64 bits that hold a row of ``size`` pixels."""
    return -(-size // 64)


def _fill(edges: _Edges, count: int, size: int) -> Words:
    """Toggle a bit where an edge crosses a row, fill every row by a running exclusive or: (count, size * words)."""
    words = _words(size)
    ends = np.cumsum(edges.rows)
    edge = np.repeat(np.arange(len(ends)), edges.rows)
    row = np.arange(len(edge)) + (edges.row - ends + edges.rows)[edge]
    # Numerator and denominator are whole numbers below 2^53, so the quotient is exact when whole and its ceiling is
    # always right: the first column whose centre is at or right of the edge (left inclusive).
    column = np.ceil((edges.offset[edge] + row * edges.slope[edge]) / edges.scale[edge])
    column = np.clip(column, 0, 64 * words).astype(np.int64)
    line = row + edges.image[edge] * size
    if column.size and column.max() == 64 * words:  # right of the image
        inside = column < 64 * words
        column, line = column[inside], line[inside]
    bits = np.zeros(count * size * words, np.uint64)
    np.bitwise_xor.at(bits, line * words + (column >> 6), np.left_shift(np.uint64(1), (column & 63).astype(np.uint64)))
    shifted = np.empty_like(bits)
    for shift in (1, 2, 4, 8, 16, 32):
        bits ^= np.left_shift(bits, np.uint64(shift), out=shifted)
    lines = bits.reshape(count * size, words)
    for word in range(1, words):
        lines[:, word] ^= -(lines[:, word - 1] >> np.uint64(63))  # a row that ends set inverts its next word
    return bits.reshape(count, size * words)


def _unpack(lines: Words, size: int) -> NDArray[np.uint8]:
    """Pixels (N, size, size) from words (N, size * words), the lowest bit being the leftmost pixel."""
    pixels = np.unpackbits(lines.astype("<u8", copy=False).view(np.uint8), bitorder="little")
    return np.ascontiguousarray(pixels.reshape(len(lines), size, 64 * _words(size))[:, :, :size])
