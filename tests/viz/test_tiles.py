"""Grids, resizing and outlines against explicit loops."""

from __future__ import annotations

import numpy as np
import pytest

from vaex.errors import VaexError
from vaex.viz import image_grid
from vaex.viz.tiles import OUTLINE, SEPARATOR, fit, framed, in_blocks, outlined, resize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "scale"), [(5, 2, 1), (4, 4, 3), (1, 9, 2), (7, 3, 2)])
def test_every_pixel_of_a_grid(channels: int, count: int, columns: int, scale: int) -> None:
    images = np.random.default_rng(0).random((count, channels, 4, 6))
    grid = image_grid(images, columns, scale=scale)
    across = min(columns, count)
    down = -(-count // across)
    assert grid.shape == (down * (4 * scale + 2) + 2, across * (6 * scale + 2) + 2, 3)
    expected = np.full_like(grid, SEPARATOR)
    for n in range(count):
        for y in range(4 * scale):
            for x in range(6 * scale):
                pixel = np.rint(images[n, :, y // scale, x // scale] * 255)
                expected[n // across * (4 * scale + 2) + 2 + y, n % across * (6 * scale + 2) + 2 + x] = pixel
    assert np.array_equal(grid, expected)


def test_defaults_make_small_images_large_and_the_grid_square() -> None:
    assert image_grid(np.zeros((9, 1, 28, 28))).shape == (3 * (84 + 2) + 2, 3 * (84 + 2) + 2, 3)
    assert image_grid(np.zeros((2, 3, 100, 64)), 2).shape == (104, 2 * 66 + 2, 3)


def test_other_channels_are_averaged() -> None:
    images = np.random.default_rng(0).random((2, 5, 8, 8))
    assert np.array_equal(image_grid(images), image_grid(images.mean(axis=1, keepdims=True)))


def test_fit() -> None:
    assert fit((28, 28), 100) == (84, 84)
    assert fit((10, 30), 100) == (30, 90)
    assert fit((256, 128), 100) == (100, 50)
    assert fit((1000, 1), 100) == (100, 1)


def test_resize_keeps_squares_up_and_means_down() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(resize(tile, (8, 12)), tile.repeat(2, axis=0).repeat(2, axis=1))
    halved = tile.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(tile, (2, 3)) - halved).max() <= 1


def test_blocks_cover_all_values() -> None:
    values = np.random.default_rng(0).random((7, 10, 2))
    found = in_blocks(values, (3, 4), np.maximum)
    rows, columns = [(0, 2), (2, 4), (4, 7)], [(0, 2), (2, 5), (5, 7), (7, 10)]
    expected = [[values[top:bottom, left:right].max((0, 1)) for left, right in columns] for top, bottom in rows]
    np.testing.assert_array_equal(found, expected)
    assert in_blocks(values, (3, 4), np.add).sum() == pytest.approx(values.sum())


def test_a_frame_lies_just_inside_the_box() -> None:
    tile = np.full((12, 14, 3), 50, dtype=np.uint8)
    line = (framed(tile, (2, 3, 9, 11)) == OUTLINE).all(axis=2)
    expected = np.zeros((12, 14), dtype=bool)
    expected[3:11, 2:9] = True
    expected[5:9, 4:7] = False
    np.testing.assert_array_equal(line, expected)
    assert (framed(tile, (0, 0, 14, 12)) == OUTLINE).all(axis=2)[[0, 0, -1, -1], [0, -1, 0, -1]].all()


def test_outline_lies_just_outside_the_mask() -> None:
    tile, mask = np.full((12, 12, 3), 50, dtype=np.uint8), np.zeros((12, 12), dtype=bool)
    mask[4:7, 5:8] = True
    drawn = outlined(tile, mask, thickness=1)
    line = (drawn == OUTLINE).all(axis=2)
    for y in range(12):
        for x in range(12):
            neighbours = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            touches = any(mask[a, b] for a, b in neighbours if 0 <= a < 12 and 0 <= b < 12)
            assert line[y, x] == (touches and not mask[y, x])
    assert (drawn[~line] == 50).all()
    assert np.array_equal(outlined(tile, np.zeros((12, 12), dtype=bool)), tile)


def test_outline_of_a_defect_of_one_pixel_survives_reduction() -> None:
    mask = np.zeros((1024, 1024), dtype=bool)
    mask[700, 300] = True
    line = (outlined(np.zeros((128, 128, 3), dtype=np.uint8), mask) == OUTLINE).all(axis=2)
    rows, columns = line.nonzero()
    assert abs(rows.mean() - 700 / 8) < 1
    assert abs(columns.mean() - 300 / 8) < 1


def test_bad_input() -> None:
    for shape in ((0, 1, 4, 4), (1, 4, 4), (2, 1, 0, 4)):
        with pytest.raises(VaexError, match="images to draw must be"):
            image_grid(np.zeros(shape))
    with pytest.raises(VaexError, match="columns=0"):
        image_grid(np.zeros((1, 1, 4, 4)), 0)
    with pytest.raises(VaexError, match="scale=0"):
        image_grid(np.zeros((1, 1, 4, 4)), scale=0)
