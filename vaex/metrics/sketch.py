"""Pixels compressed to masses on intervals of their scores, with an error that holds whatever the scores are.

Scores are integers here (`vaex.metrics.ordering`), 32 bits in the order of the floats. The whole range is split into 16
equal intervals, each of these again, and so on; a single score is reached after 8 splits. An interval is kept whole
only while it holds

- no more than ``share`` of the normal pixels that score above it, counted in the normal images, in these together with
  each kind of defect, and in all images; and
- no more than ``share`` of the anomalous pixels of each kind, of their regions and of their images (pixels weigh
  1 / size).

What lies in an interval when that is split stays there, and only what comes later goes into the parts; the amounts
above and the totals only grow, so that the conditions stay true, and adding the masses of two sketches keeps them too.
A score lies in at most 8 intervals of more than one score. So the rank of any score is known within 8 ``share`` of what
lies above it: fine where false alarms are rare, whatever the scale, the tails or the order in which pixels come.
The number of intervals grows with (1 / share) * log(pixels).

What that means for measures, with d = 8 ``share``: a count of normal pixels is off by at most d / 2 of itself, since
what reaches over a score counts by half, and a count of anomalous pixels by d / 2 of all. An anomalous pixel in an
interval is off by the interval's range of false positive rates; at each of the 8 depths intervals are apart, so their
ranges add up to at most 1, and each holds at most ``share`` of the weight: d in all, and d / 2 for AUROC, where the
middle is taken. Together d for AUROC, 3 d / 2 for AUPRO and AUPIMO. F1 and IoU are looked at only where an anomalous
interval begins, at most d of the anomalous pixels away from the best threshold: less than 4 d. `LocalizationMetrics`
takes 4 d as its tolerance.

Source: Shrivastava et al., SenSys 2004 (q-digest: dyadic intervals, mergeable); Cormode et al., PODS 2006 (biased
quantiles: errors relative to the rank).
Differs: sixteen parts instead of two, and several conditions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaex.metrics.ordering import Floats, Keys

Longs = NDArray[np.int64]
PARTS, DEPTH = 16, 8
BLOCK = 2**16
"""Intervals that are looked at together, which bounds the memory."""
LOWEST, ALL_SCORES = -(2**31), 2**32


class Pixels(NamedTuple):
    """Single pixels of one ``part`` of the images: keys of the normal (n,) and the anomalous (m,), both ascending.

    Below 0 a part is that of normal images of -part pixels; above, that of images with one kind of defect.
    ``weights`` (m, 2) are 1 / size of the region and 1 / anomalous pixels of the image.
    """

    part: int
    normal: Keys
    anomalous: Keys
    weights: Floats


class Nodes(NamedTuple):
    """Masses on intervals: ``low`` (n,) and ``width`` (n,) in keys, the ``part``, and the ``mass`` (n, 4) of each.

    The masses are normal pixels, anomalous pixels, and the two weights of the latter.
    """

    low: Longs
    width: Longs
    part: Longs
    mass: Floats


def no_pixels(part: int) -> Pixels:
    """Return a part without single pixels."""
    return Pixels(part, np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2)))


def no_nodes() -> Nodes:
    """Return a sketch of nothing."""
    empty = np.zeros(0, np.int64)
    return Nodes(empty, empty, empty, np.zeros((0, 4)))


def selected(nodes: Nodes, which: NDArray[np.bool_] | NDArray[np.intp]) -> Nodes:
    """Return some of the masses, or all in another order."""
    return Nodes(nodes.low[which], nodes.width[which], nodes.part[which], nodes.mass[which])


def joined(nodes: Sequence[Nodes]) -> Nodes:
    """Return the masses of all sketches, which is the sketch of all their pixels."""
    low, width, part, mass = (np.concatenate(column) for column in zip(no_nodes(), *nodes, strict=True))
    return Nodes(low, width, part, mass)


def compressed(pixels: Sequence[Pixels], nodes: Nodes, share: float) -> Nodes:
    """Return the sketch of ``pixels``, one entry per part, and of what ``nodes`` already hold."""
    found = {one.part: one for one in pixels}
    numbers = sorted({*found, *nodes.part.tolist()})
    sources = [_Source(found.get(part) or no_pixels(part), selected(nodes, nodes.part == part)) for part in numbers]
    frontier, width, result = np.array([LOWEST], np.int64), ALL_SCORES, []
    for _ in range(DEPTH + 1):
        for source in sources:
            source.reach(width)
        split = [np.zeros(0, np.int64)]
        for start in range(0, len(frontier), BLOCK):
            low = frontier[start : start + BLOCK]
            inside = [source.inside(low) for source in sources]
            held = np.any([mass.any(1) for mass in inside], axis=0) if inside else np.zeros(len(low), bool)
            whole = _within(sources, inside, low, share) if width > 1 else np.ones(len(low), bool)
            split.append(low[held & ~whole])
            for source, mass in zip(sources, inside, strict=True):
                kept = whole & mass.any(1)
                count = int(kept.sum())
                result.append(Nodes(low[kept], np.full(count, width), np.full(count, source.pixels.part), mass[kept]))
        frontier = np.concatenate(split)
        result.append(selected(nodes, np.isin(nodes.low, frontier) & (nodes.width == width)))
        width //= PARTS
        frontier = (frontier[:, None] + width * np.arange(PARTS)).ravel()
    return joined(result)


class _Source:
    """What is known of one part, to be counted in intervals."""

    def __init__(self, pixels: Pixels, nodes: Nodes) -> None:
        self.pixels, self.nodes = pixels, selected(nodes, np.argsort(nodes.low))
        self.weights = np.concatenate([np.zeros((1, 2)), np.cumsum(pixels.weights, 0)])  # of the pixels before each
        self.normals_before = np.concatenate([[0.0], np.cumsum(self.nodes.mass[:, 0])])
        counts = [len(pixels.normal), len(pixels.anomalous), *self.weights[-1]]
        self.total: Floats = np.asarray(counts) + nodes.mass.sum(0)  # (4,)

    def reach(self, width: int) -> None:
        """Turn to intervals of ``width``."""
        self.width = width
        small = selected(self.nodes, self.nodes.width <= width)
        self.small_low, self.small_sums = small.low, np.concatenate([np.zeros((1, 4)), np.cumsum(small.mass, 0)])

    def inside(self, low: Longs) -> Floats:
        """Return the masses (n, 4) in intervals from ``low`` (n,) on, without those of wider intervals."""
        high = low + (self.width - 1)
        mass = np.empty((len(low), 4))
        mass[:, 0] = _before(self.pixels.normal, high, "right") - _before(self.pixels.normal, low, "left")
        first, last = _before(self.pixels.anomalous, low, "left"), _before(self.pixels.anomalous, high, "right")
        mass[:, 1], mass[:, 2:] = last - first, self.weights[last] - self.weights[first]
        if len(self.small_low):
            first, last = np.searchsorted(self.small_low, low, "left"), np.searchsorted(self.small_low, high, "right")
            mass += self.small_sums[last] - self.small_sums[first]
        mass[mass[:, 1] < 0.5, 1:] = 0  # differences of sums leave rounding where there is nothing
        return mass

    def above(self, low: Longs) -> Floats:
        """Return how many normal pixels (n,) surely lie above each interval."""
        high = low + (self.width - 1)
        counted = len(self.pixels.normal) - _before(self.pixels.normal, high, "right")
        known = self.normals_before[-1] - self.normals_before[np.searchsorted(self.nodes.low, high, "right")]
        result: Floats = counted + known
        return result


def _before(keys: Keys, limits: Longs, side: str) -> NDArray[np.intp]:
    return np.searchsorted(keys, limits.astype(np.int32), "left" if side == "left" else "right")


def _within(sources: Sequence[_Source], inside: Sequence[Floats], low: Longs, share: float) -> NDArray[np.bool_]:
    """Return which intervals may stay whole."""
    fits = np.ones(len(low), bool)
    normals = {True: np.zeros((2, len(low))), False: np.zeros((2, len(low)))}  # of normal images, and of others
    groups = []
    for source, mass in zip(sources, inside, strict=True):
        both = np.stack([mass[:, 0], share * source.above(low)])  # what there is, and what there may be
        of_normal_images = source.pixels.part < 0
        normals[of_normal_images] += both
        if of_normal_images:
            fits &= both[0] <= both[1]
        else:
            groups.append(both)
            fits &= (mass[:, 1:] <= share * source.total[1:]).all(1)
    for both in (*(normals[True] + own for own in groups), normals[True] + normals[False]):
        fits &= both[0] <= both[1]
    return fits
