"""Regions against a flood fill, boxes in pixels of the original against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vaex.errors import VaexError
from vaex.scores.regions import box_mask, check_box, find_regions, pooled_inside


def flood(above: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Return the sets of pixels (y, x) that touch by side or corner."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(above), strict=True)}
    found = []
    while left:
        todo, region = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            region.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(region)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_random_maps(seed: int) -> None:
    values = np.random.default_rng(seed).random((23, 31)).astype(np.float32)
    threshold = (0.5, 0.7, 0.8, 0.9, 0.99)[seed]
    expected = []
    for region in flood(values > threshold):
        rows, columns = [y for y, _ in region], [x for _, x in region]
        top = max(float(values[y, x]) for y, x in region)
        expected.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1, len(region), top))
    found = find_regions(values, threshold)
    assert [one[:6] for one in found] == sorted(expected, key=lambda one: -one[5])
    large = find_regions(values, threshold, min_area=3)
    assert [tuple(one) for one in large] == [tuple(one) for one in found if one.area >= 3]


def test_pixels_of_the_original() -> None:
    values = np.zeros((4, 8), dtype=np.float32)
    values[1:3, 2:5] = 2.0
    (region,) = find_regions(values, 1.0, size=(80, 20))  # 10 and 5 times as large
    assert region[:6] == (20, 5, 50, 15, 30 * 10, 2.0)
    (region,) = find_regions(values, 1.0, size=(12, 6))  # 1.5 times as large: boxes are rounded outwards
    assert region[:6] == (3, 1, 8, 5, round(6 * 1.5 * 1.5), 2.0)
    (region,) = find_regions(values, 1.0, size=(4, 2))  # half as large
    assert region[:6] == (1, 0, 3, 2, round(6 / 4), 2.0)


def test_equal_is_not_above_and_no_number_is() -> None:
    values = np.ones((3, 3), dtype=np.float32)
    assert find_regions(values, 1.0) == []
    values[1, 1] = np.nan
    (region,) = find_regions(values, 1.0)
    assert region[:5] == (1, 1, 2, 2, 1)
    assert math.isnan(region.score)


def test_only_the_region_of_interest_counts() -> None:
    values = np.ones((6, 6), dtype=np.float32)
    values[0, 0], values[3, 3] = 9, 5
    roi = box_mask((2, 2, 5, 6), (6, 6), (6, 6))
    (region,) = find_regions(values, 0.5, roi=roi)
    assert region[:6] == (2, 2, 5, 6, 12, 5.0)
    inside = values[2:6, 2:5]
    assert pooled_inside(values, roi, "max") == 5
    assert pooled_inside(values, roi, "sum") == inside.sum()
    assert pooled_inside(values, roi, "mean") == pytest.approx(inside.mean())


def test_box_holds_the_pixels_with_their_centre_inside() -> None:
    size, shape, box = (100, 60), (7, 9), (20, 10, 71, 45)
    found = box_mask(box, size, shape)
    for y in range(7):
        for x in range(9):
            across, down = (x + 0.5) * 100 / 9, (y + 0.5) * 60 / 7
            assert found[y, x] == (20 <= across < 71 and 10 <= down < 45)
    with pytest.raises(VaexError, match="holds no pixel of an image of 100x60"):
        box_mask((200, 0, 300, 50), size, shape)


@pytest.mark.parametrize(
    "box", [[], [1, 2, 3], [0, 0, 0, 5], [5, 0, 4, 5], [-1, 0, 4, 5], [0, 0, 1.5, 5], [True, 0, 4, 5]]
)
def test_what_is_no_box(box: list[int]) -> None:
    with pytest.raises(VaexError, match=r"roi must be \[x0,y0,x1,y1\]"):
        check_box(box)


def test_a_region_has_the_kind_whose_map_is_largest_inside() -> None:
    generator = np.random.default_rng(0)
    values, maps = generator.random((20, 24)).astype(np.float32), generator.random((3, 20, 24)).astype(np.float32)
    kinds = dict(zip("abc", maps, strict=True))
    for name, one in kinds.items():
        one[values <= 0.7] = 99.0 if name == "b" else 0.0  # outside of all regions
    expected = {}
    for region in flood(values > 0.7):
        means = {name: np.mean([one[y, x] for y, x in region]) for name, one in kinds.items()}
        expected[max(float(values[y, x]) for y, x in region)] = max(means, key=lambda name: means[name])
    found = find_regions(values, 0.7, kinds=kinds)
    assert {region.score: region.kind for region in found} == expected
    assert len(set(expected.values())) == 3
    nothing = {"a": np.zeros_like(values), "b": np.full_like(values, np.nan)}
    assert {region.kind for region in find_regions(values, 0.7, kinds=nothing)} == {None}
    assert {region.kind for region in find_regions(values, 0.7)} == {None}
