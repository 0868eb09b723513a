"""The renderer against real dSprites images, an exact winding-number oracle, and closed forms of the shapes."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from vaex.data.render import draw_sprites, example_sprites, fill_polygons
from vaex.errors import VaexError

Point = tuple[int, int]


def test_all_real_images_are_drawn_bit_for_bit(vaex_data: Path) -> None:
    with np.load(vaex_data / "dsprites" / "real_samples.npz") as real:
        images, classes = real["imgs"], real["latents_classes"]
    assert images.shape == (463, 64, 64)
    _, shape, scale, turn, x, y = classes.T
    place = np.linspace(0, 1, 32)
    drawn = draw_sprites(shape, np.linspace(0.5, 1, 6)[scale], np.linspace(0, 2 * np.pi, 40)[turn], place[x], place[y])
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, images)


def winding_number(point: Point, polygon: list[Point]) -> int:
    """Turns of the polygon around a point that is on no edge and level with no vertex, in exact integers."""
    turns = 0
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        side = (x1 - x0) * (point[1] - y0) - (point[0] - x0) * (y1 - y0)
        if y0 < point[1] < y1 and side > 0:
            turns += 1
        elif y1 < point[1] < y0 and side < 0:
            turns -= 1
    return turns


def oracle(polygon: list[Point], size: int) -> NDArray[np.uint8]:
    """Even-odd filling with each centre moved a trifle right and far less up: left and bottom edges win ties."""
    fine = 1 << 60
    scaled = [(x * fine, y * fine) for x, y in polygon]
    image = np.zeros((size, size), np.uint8)
    for row in range(size):
        for column in range(size):
            point = ((256 * column + 128) * fine + (1 << 36), (256 * row + 128) * fine - 1)
            image[row, column] = winding_number(point, scaled) % 2
    return image


@pytest.mark.parametrize("lattice", [1, 64, 128])
def test_random_polygons_equal_the_winding_number_oracle(lattice: int) -> None:
    draw, size = random.Random(lattice), 12
    polygons = []
    for vertices in (
        3,
        4,
        7,
    ) * 8:  # self-crossing ones too, partly outside; on the coarse lattices nearly all have ties
        span = (-2 * 256 // lattice, (size + 2) * 256 // lattice)
        polygons.append([(draw.randint(*span) * lattice, draw.randint(*span) * lattice) for _ in range(vertices)])
    filled = 0
    for polygon in polygons:
        x, y = zip(*polygon, strict=True)
        drawn = fill_polygons([x], [y], size)[0]
        assert np.array_equal(drawn, oracle(polygon, size)), polygon
        filled += int(drawn.sum())
    assert filled > 200


def test_ties_go_to_the_left_and_the_bottom_edge() -> None:
    left, right, top, bottom = (256 * n + 128 for n in (2, 5, 3, 7))  # all four edges run through pixel centres
    image = fill_polygons([[left, right, right, left]], [[top, top, bottom, bottom]], 10)[0]
    rows, columns = np.nonzero(image)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (2, 4, 4, 7)
    assert image.sum() == 3 * 4


@pytest.mark.parametrize("size", [63, 64, 65, 130, 256])
def test_rows_of_any_width_are_filled_across_machine_words(size: int) -> None:
    """Stripes 3 wide at every column; the last ones leave the image on the right."""
    left = np.arange(0, size) * 256
    top = np.zeros_like(left)
    images = fill_polygons(
        np.stack((left, left + 768, left + 768, left), 1), np.stack((top, top, top + 512, top + 512), 1), size
    )
    expected = np.zeros((size, size, size), np.uint8)
    for column in range(size):
        expected[column, :2, column : column + 3] = 1
    assert np.array_equal(images, expected)


@pytest.mark.parametrize("size", [16, 50, 64, 100, 200])
def test_shapes_lie_where_their_formulas_say_at_every_size(size: int) -> None:
    """Implicit forms of square and ellipse and matplotlib's heart, apart from pixels within 0.02 of an outline."""
    rng = np.random.default_rng(size)
    centers = (np.arange(size) + 0.5) * 64 / size  # in pixels of the 64-pixel image
    grid_x, grid_y = np.meshgrid(centers, centers)
    a = np.linspace(0, 2 * math.pi, 400)
    top = (13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)) / 14.5 + 0.15
    heart = Outline(np.stack((np.sin(a) ** 3, -top), 1))
    for _ in range(6):
        scale, turn, x, y = rng.uniform(0.5, 1), rng.uniform(0, 2 * math.pi), rng.random(), rng.random()
        east, south = (grid_x - 16 - 32 * x) / (9.6 * scale), (grid_y - 16 - 32 * y) / (9.6 * scale)
        u = east * math.cos(turn) - south * math.sin(turn)  # turned back into the shape's own frame
        v = east * math.sin(turn) + south * math.cos(turn)
        square = np.maximum(abs(u), abs(v)) - 1
        ellipse = np.hypot(u / 1.33, v * 1.33) - 1
        points = np.stack((u.ravel(), v.ravel()), 1)
        inner, outer = (heart.contains_points(points / factor).reshape(size, size) for factor in (1 / 1.04, 1.04))
        drawn = draw_sprites([0, 1, 2], scale, turn, x, y, size).astype(bool)
        for image, field in ((drawn[0], square), (drawn[1], ellipse)):
            clear = abs(field) > 0.02
            assert np.array_equal(image[clear], (field < 0)[clear])
        # Scaling is no offset of the outline near the dent (u = 0), so pixels there do not count.
        agreed = (inner == outer) & (abs(u) > 0.1)
        assert np.array_equal(drawn[2][agreed], inner[agreed])


def test_area_is_that_of_the_shapes() -> None:
    rng = np.random.default_rng(0)
    turn, x, y = rng.uniform(0, 2 * math.pi, 200), rng.random(200), rng.random(200)
    scale = np.linspace(0.5, 1, 200)
    side = 9.6 * scale * 4  # at size 256
    square = draw_sprites(0, scale, turn, x, y, 256).sum((1, 2), dtype=np.int64)
    ellipse = draw_sprites(1, scale, turn, x, y, 256).sum((1, 2), dtype=np.int64)
    assert np.allclose(square / (4 * side**2), 1, atol=0.015)
    assert np.allclose(ellipse / (math.pi * side**2), 1, atol=0.015)


def test_long_and_single_renders_are_the_same() -> None:
    rng = np.random.default_rng(1)
    shape, values = rng.integers(3, size=700), rng.uniform((0.5, 0, 0, 0), (1, 6, 1, 1), (700, 4)).T
    scale, turn, x, y = values
    together = draw_sprites(shape, scale, turn, x, y, 40)
    for n in (0, 255, 256, 511, 512, 699):
        assert np.array_equal(together[n], draw_sprites(shape[n], scale[n], turn[n], x[n], y[n], 40)[0])
    assert draw_sprites([], [], [], [], []).shape == (0, 64, 64)


def test_full_turn_draws_the_same_image_and_a_small_turn_another() -> None:
    first, last, other = draw_sprites(2, 0.9, [0, 2 * math.pi, 0.3], 0.4, 0.6)
    assert np.array_equal(first, last)
    assert not np.array_equal(first, other)


def test_example_sprites_follow_their_seed() -> None:
    examples = example_sprites(9, 32, seed=4)
    assert examples.shape == (9, 32, 32)
    assert set(np.unique(examples)) == {0, 1}
    assert len({image.tobytes() for image in examples}) == 9
    assert np.array_equal(examples, example_sprites(9, 32, seed=4))
    assert not np.array_equal(examples, example_sprites(9, 32, seed=5))
    assert example_sprites(0).shape == (0, 64, 64)


def test_wrong_values_are_refused() -> None:
    for size in (15, 257, 64.0, True, "64"):
        with pytest.raises(VaexError, match=r"image size must be a whole number of pixels in 16\.\.256"):
            draw_sprites(0, 1, 0, 0, 0, size)  # type: ignore[arg-type]
    for shape in (3, -1):
        with pytest.raises(VaexError, match=r"shapes must be in 0\.\.2 \(square, ellipse, heart\)"):
            draw_sprites([0, shape], 1, 0, 0, 0)
    with pytest.raises(VaexError, match=r"whole numbers"):
        draw_sprites(0.5, 1, 0, 0, 0)
    for position in range(4):
        scale, turn, x, y = (math.nan if n == position else 1.0 for n in range(4))
        with pytest.raises(VaexError, match=r"finite"):
            draw_sprites(0, scale, turn, x, y)
    with pytest.raises(VaexError, match=r"scales must be above 0"):
        draw_sprites(0, [1.0, 0.0], 0, 0, 0)
    with pytest.raises(VaexError, match=r"got 2 dimensions"):
        draw_sprites([[0, 1]], 1, 0, 0, 0)
    with pytest.raises(VaexError, match=r"arrays of one length"):
        draw_sprites([0, 1], [1.0, 1.0, 1.0], 0, 0, 0)
    with pytest.raises(VaexError, match=r"two arrays \(N, V\)"):
        fill_polygons([[0, 1, 2]], [[0, 1]], 16)
