"""The connected regions of a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3), dtype=np.int8)
"""Pixels that touch by a side or by a corner belong to one region."""


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the number of each pixel's region, (H, W) from 1 on and 0 outside, and how many regions there are.

    ``mask`` (H, W). Regions are 8-connected.
    """
    labels = np.zeros(mask.shape, dtype=np.int32)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return labels, 0
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)  # most masks are small in their image
    labels[box], count = ndimage.label(mask[box], NEIGHBOURS)
    return labels, int(count)


def region_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many pixels the region of each anomalous pixel has: (pixels of the mask,), in row-major order."""
    labels, _ = label_regions(mask)
    own = labels[mask]
    sizes: NDArray[np.int64] = np.bincount(own)[own] if len(own) else np.zeros(0, np.int64)
    return sizes
