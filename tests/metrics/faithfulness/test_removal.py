"""Deletion and insertion against pixels replaced one by one in numpy, and against networks that add pixels up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness import (
    curve_area,
    deletion,
    deletion_curve,
    deletion_to_normal,
    insertion,
    insertion_curve,
    values_along,
)
from vaex.metrics.faithfulness.removal import removal_order

STEPS = 7


def crooked(images: Tensor) -> Tensor:
    """Two values in which pixels do not add up."""
    flat = images.flatten(1).double()
    return torch.stack([(flat * torch.linspace(-1, 2, flat.shape[1])).sum(1).tanh(), flat.square().mean(1)], 1)


def by_hand(images: Tensor, maps: Tensor, fill: Tensor, insert: bool) -> np.ndarray[Any, Any]:
    """Return the value of each step (B, T, steps + 1): a list of pixels, worked off in a loop."""
    result = np.zeros((*maps.shape[:2], STEPS + 1))
    for b in range(len(images)):
        for t in range(maps.shape[1]):
            goal = fill[b, t] if fill.dim() == 5 else fill[b]
            start, end = (goal, images[b]) if insert else (images[b], goal)
            height, width = maps.shape[2:]
            places = [(y, x) for y in range(height) for x in range(width)]
            places.sort(key=lambda place: -abs(float(maps[b, t, place[0], place[1]])))
            for k in range(STEPS + 1):
                seen = start.clone()
                for y, x in places[: math.floor(k * len(places) / STEPS)]:
                    seen[:, y, x] = end[:, y, x]
                result[b, t, k] = float(crooked(seen[None])[0, t])
    return result


@pytest.mark.parametrize("own_fill", [False, True])
def test_curves_equal_pixels_replaced_one_by_one(images: Tensor, maps: Tensor, own_fill: bool) -> None:
    fill = torch.rand(3, 2, 2, 6, 5) if own_fill else torch.rand(3, 2, 6, 5)
    out, back = by_hand(images, maps, fill, insert=False), by_hand(images, maps, fill, insert=True)
    falling = deletion_curve(crooked, images, maps, fill, STEPS).numpy()
    rising = insertion_curve(crooked, images, maps, fill, STEPS).numpy()
    np.testing.assert_allclose(falling, np.abs(out - out[..., -1:]), atol=1e-12)
    np.testing.assert_allclose(rising, np.abs(back - back[..., :1]), atol=1e-12)
    trapezoid = np.trapezoid(falling, dx=1 / STEPS, axis=-1)
    np.testing.assert_allclose(curve_area(torch.from_numpy(falling)), trapezoid, atol=1e-12)
    np.testing.assert_allclose(
        deletion(crooked, images, maps, fill, STEPS), trapezoid / np.abs(out[..., 0] - out[..., -1]), atol=1e-9
    )
    np.testing.assert_allclose(
        insertion(crooked, images, maps, fill, STEPS),
        np.trapezoid(rising, dx=1 / STEPS, axis=-1) / np.abs(back[..., 0] - back[..., -1]),
        atol=1e-9,
    )


def test_of_pixels_that_add_up_the_true_map_is_the_best_and_its_reverse_the_worst() -> None:
    """Values are sums of 16 pixels worth 1 to 16; removed from the largest on, sum k has k (33 - k) / 2 taken."""
    worth = torch.arange(1.0, 17).view(1, 1, 4, 4)
    best, worst = worth, 17 - worth
    image, black = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)

    def value(seen: Tensor) -> Tensor:
        return (seen * worth).sum((2, 3))

    taken = np.array([k * (33 - k) / 2 for k in range(17)]) / 136
    left = [deletion(value, image, order, black).item() for order in (best, worst)]
    assert left[0] == pytest.approx(np.trapezoid(1 - taken, dx=1 / 16))
    assert left[0] + left[1] == pytest.approx(1.0)
    assert insertion(value, image, best, black).item() == pytest.approx(np.trapezoid(taken, dx=1 / 16))
    assert insertion(value, image, worst, black).item() == pytest.approx(left[0])


def test_the_sign_of_map_and_value_does_not_matter(images: Tensor, maps: Tensor, weighing: Any) -> None:
    fill = torch.zeros_like(images)
    found = deletion(weighing, images, maps, fill)
    torch.testing.assert_close(deletion(lambda seen: 5 - 3 * weighing(seen), images, -maps, fill), found)


def test_ties_come_in_a_drawn_order() -> None:
    order = removal_order(torch.zeros(1, 1, 5, 5))
    assert sorted(order.flatten().tolist()) == list(range(25))
    assert order.flatten().tolist() != list(range(25))
    assert torch.equal(order, removal_order(torch.zeros(1, 1, 5, 5)))
    assert not torch.equal(order, removal_order(torch.zeros(1, 1, 5, 5), seed=1))
    places = removal_order(torch.tensor([[[[0.5, -3.0], [1.0, 0.0]]]]))
    assert places.flatten().tolist() == [2, 0, 1, 3]
    assert removal_order(torch.tensor([[[[0.5, -3.0], [1.0, 0.0]]]]), signed=True).flatten().tolist() == [1, 3, 0, 2]


def test_nothing_is_told_where_the_fill_changes_nothing(images: Tensor, maps: Tensor, weighing: Any) -> None:
    assert bool(deletion(weighing, images, maps, images).isnan().all())
    assert bool(insertion(weighing, images, maps, images).isnan().all())


def test_excess_score_falls_at_once_where_the_map_finds_the_defect() -> None:
    """One defect pixel of 16 raises the score; it is replaced first, in the middle, or last."""
    image, normal = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    image[..., 2, 1] = 1.0
    steps = 16

    def score(seen: Tensor) -> Tensor:
        return seen.amax((2, 3)) + 4

    for place in (1, 8, 16):
        order = torch.arange(16.0, 0, -1)
        position = order.tolist().index(17 - place)
        order[[position, 9]] = order[[9, position]]  # the defect is pixel 9
        left = deletion_to_normal(score, image, order.view(1, 1, 4, 4) - 8, normal, steps)
        assert left.item() == pytest.approx((place - 0.5) / steps)
    assert bool(deletion_to_normal(score, normal, torch.rand(1, 1, 4, 4), normal).isnan())
    assert bool(deletion_to_normal(score, normal, torch.rand(1, 1, 4, 4), image).isnan())  # "normal" scores more


def test_wrong_shapes_are_told(images: Tensor, maps: Tensor, weighing: Any) -> None:
    with pytest.raises(VaexError, match="images to fill with"):
        deletion(weighing, images, maps, images[:, :1])
    with pytest.raises(VaexError, match="values of 3 images with 2 maps"):
        deletion(lambda seen: seen.mean((1, 2, 3)), images, maps, images)
    with pytest.raises(VaexError, match="images' size"):
        deletion(weighing, images, maps[..., :3], images)
    with pytest.raises(VaexError, match="at least 1 step"):
        values_along(weighing, images, maps, images, 0)
    with pytest.raises(VaexError, match="NaN"):
        deletion(weighing, images, maps * torch.nan, images)
