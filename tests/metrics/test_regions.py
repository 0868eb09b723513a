"""Regions touch by sides and corners; sizes are told pixel by pixel."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vaex.metrics.regions import label_regions, region_sizes


def test_corners_touch() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1, 1] = mask[2, 2] = mask[3, 1] = mask[5, 6] = True
    labels, count = label_regions(mask)
    assert count == 2
    assert labels[1, 1] == labels[2, 2] == labels[3, 1] != labels[5, 6]
    assert (labels > 0).tolist() == mask.tolist()
    assert region_sizes(mask).tolist() == [3, 3, 3, 1]


def test_nothing_and_everything() -> None:
    empty = np.zeros((3, 4), bool)
    labels, count = label_regions(empty)
    assert count == 0
    assert not labels.any()
    assert len(region_sizes(empty)) == 0
    assert region_sizes(~empty).tolist() == [12] * 12


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_a_region_is_what_can_be_reached(mask: NDArray[np.bool_]) -> None:
    places = np.argwhere(mask)
    near = (np.abs(places[:, None] - places).max(2) <= 1).astype(float)
    for _ in range(6):  # 2^6 steps
        near = np.minimum(near @ near, 1)
    assert region_sizes(mask).tolist() == near.sum(1).tolist()
    labels, count = label_regions(mask)
    assert count == len({tuple(row) for row in near.tolist()})
    assert ((labels[mask][:, None] == labels[mask]) == (near > 0)).all()
