"""From a score map to regions: where the map is above a threshold, in pixels of the original image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]


class Region(NamedTuple):
    """Connected pixels above a threshold: its box x0 <= x < x1, y0 <= y < y1 and area in pixels of the original image.

    ``score`` is the highest value of the map inside, ``kind`` the name of the kind of defect that it looks like.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    area: int
    score: float
    kind: str | None = None  # None where nobody asked, or no kind has a map there


def find_regions(
    score_map: Map,
    threshold: float,
    size: tuple[int, int] | None = None,
    roi: Mask | None = None,
    min_area: float = 0,
    kinds: Mapping[str, Map] | None = None,
) -> list[Region]:
    """Return the regions of ``score_map`` (H, W) that lie above ``threshold``, the highest score first.

    Pixels that touch by a side or a corner belong together. ``size`` is (width, height) of the original image, by
    default that of the map; boxes are rounded outwards to its pixels. Only pixels of ``roi`` (H, W) count, and regions
    of less than ``min_area`` pixels of the original image are left out. A value that is no number lies above. Of
    ``kinds``, maps (H, W) by name, a region gets the one whose mean inside is largest, if any is above 0.
    """
    from scipy import ndimage

    above = ~(score_map <= threshold)
    if roi is not None:
        above &= roi
    labels, count = ndimage.label(above, structure=np.ones((3, 3), dtype=np.int8))
    if not count:
        return []
    height, width = score_map.shape
    across, down = (1.0, 1.0) if size is None else (size[0] / width, size[1] / height)
    cells = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    highest = ndimage.maximum(score_map, labels, np.arange(1, count + 1))
    named = _kinds_of(labels, count, kinds or {})
    found = []
    for (rows, columns), pixels, top, kind in zip(ndimage.find_objects(labels), cells, highest, named, strict=True):
        area = float(pixels) * across * down
        if area >= min_area:
            found.append(
                Region(
                    math.floor(columns.start * across + 1e-9),
                    math.floor(rows.start * down + 1e-9),
                    math.ceil(columns.stop * across - 1e-9),
                    math.ceil(rows.stop * down - 1e-9),
                    max(round(area), 1),
                    float(top),
                    kind,
                )
            )
    return sorted(found, key=lambda region: -math.inf if math.isnan(region.score) else -region.score)


def _kinds_of(labels: NDArray[np.int32], count: int, kinds: Mapping[str, Map]) -> list[str | None]:
    from scipy import ndimage

    if not kinds:
        return [None] * count
    means = np.stack([ndimage.mean(values, labels, np.arange(1, count + 1)) for values in kinds.values()])
    means = np.nan_to_num(means)
    names = list(kinds)
    return [names[column.argmax()] if column.max() > 0 else None for column in means.T]


def box_mask(box: Sequence[int], size: tuple[int, int], shape: tuple[int, int]) -> Mask:
    """Return which pixels of a map of ``shape`` (H, W) have their centre in ``box`` (x0, y0, x1, y1).

    The box is in pixels of an image of ``size`` (width, height).

    Raises:
        VaexError: when nothing of the box is inside the image.
    """
    (height, width), (x0, y0, x1, y1) = shape, box
    columns = (np.arange(width) + 0.5) * (size[0] / width)
    rows = (np.arange(height) + 0.5) * (size[1] / height)
    inside: Mask = ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None]
    if not inside.any():
        raise VaexError(f"roi={list(box)} holds no pixel of an image of {size[0]}x{size[1]} pixels.")
    return inside


def check_box(box: Sequence[int]) -> tuple[int, int, int, int]:
    """Return ``box`` as (x0, y0, x1, y1).

    Raises:
        VaexError: when it is no box of four whole numbers with x0 < x1 and y0 < y1.
    """
    numbers = list(box)
    whole = len(numbers) == 4 and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not whole or min(numbers) < 0 or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise VaexError(f"roi must be [x0,y0,x1,y1] in pixels of the image with x0 < x1 and y0 < y1, got {numbers}.")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def pooled_inside(score_map: Map, roi: Mask, pool: str) -> float:
    """Return the maximum, sum or mean of ``score_map`` (H, W) over the pixels of ``roi`` (H, W), one of which is True.

    NaN inside makes NaN.
    """
    values = score_map[roi].astype(np.float64)
    return float(values.max() if pool == "max" else values.sum() if pool == "sum" else values.mean())
