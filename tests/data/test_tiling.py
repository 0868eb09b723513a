"""The grid of tiles: it covers an image, and neighbours share what they should."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vaex.data.tiling import Tile, check_tile, tile_pixels, tiles_of
from vaex.errors import VaexError


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), [(40, 56, 16, 4), (41, 33, 16, 8), (5, 40, 16, 0)])
def test_tiles_cover_the_image_and_overlap(height: int, width: int, tile: int, overlap: int) -> None:
    found = tiles_of(height, width, tile, overlap)
    covered = np.zeros((height, width))
    for one in found:
        assert (one.bottom - one.top, one.right - one.left) == (min(tile, height), min(tile, width))
        covered[one.top : one.bottom, one.left : one.right] += 1
    assert covered.min() >= 1
    for axis in ((one.left, one.right) for one in found), ((one.top, one.bottom) for one in found):
        spans = sorted(set(axis))
        assert all(end - start >= overlap for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (16, 9), (16, -1), (16.0, 2), (True, 0)])
def test_tiles_out_of_range(tile: int, overlap: int) -> None:
    with pytest.raises(VaexError, match="tile and overlap are whole pixels"):
        tiles_of(40, 40, tile, overlap)
    with pytest.raises(VaexError, match=r"data\.tile and data\.overlap are whole pixels"):
        check_tile(tile, overlap, "data.")


@pytest.mark.parametrize("shape", [(20, 12), (32, 48), (7, 9)])
def test_a_tile_of_floats_is_that_of_8_bits(shape: tuple[int, int]) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (3, 40, 30), dtype=np.uint8)
    part = Tile(5, 25, 10, 22)
    whole = tile_pixels(stored / np.float32(255), part, shape)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, tile_pixels(stored, part, shape) / np.float32(255))
