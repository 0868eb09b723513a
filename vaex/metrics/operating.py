"""What each of a few thresholds would do: points of ROC, PRO and precision-recall curves, for a slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError
from vaex.metrics.regions import label_regions

MOST = 255
"""Most thresholds: a level counts them in one byte."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoints:
    """Rates in [0, 1] at each threshold, rising: values at or above it count as anomalous. ``pro`` is of maps alone.

    ``precision`` is NaN where nothing reaches the threshold.
    """

    thresholds: Floats
    fpr: Floats
    tpr: Floats
    precision: Floats
    pro: Floats | None = None

    @property
    def best(self) -> int:
        """Position of the threshold of highest F1."""
        precision = np.nan_to_num(self.precision)
        total = precision + self.tpr
        return int(np.divide(2 * precision * self.tpr, total, out=np.zeros_like(total), where=total > 0).argmax())


def levels(thresholds: Floats, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return how many thresholds each value reaches: it is at or above threshold i where its level exceeds i."""
    found: NDArray[np.int64] = np.searchsorted(
        thresholds, np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf), side="right"
    )
    return found.astype(np.uint8)


def above(value: float) -> float:
    """Return the threshold that values at or above reach where they are greater than ``value``."""
    return float(np.nextafter(value, np.inf))


def unlabelled_points(values: NDArray[Any], also: Sequence[float] = ()) -> tuple[Floats, Floats]:
    """Return thresholds among ``values`` (any shape) and ``also``, and which share of the values is at or above each.

    Values that are not finite are left out.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    thresholds = chosen_thresholds(known, known[:0], also=also)
    return thresholds, _share(known, thresholds)


def chosen_thresholds(
    normal: NDArray[Any], anomalous: NDArray[Any], most: int = MOST, also: Sequence[float] = ()
) -> Floats:
    """Return at most ``most`` rising thresholds: ``also`` and, among the values, all where they are few enough.

    Else half are quantiles of the anomalous values, and half of the normal ones, denser towards few false alarms.
    """
    values = np.unique(np.concatenate([normal, anomalous]))
    most -= len(also)
    if len(values) <= most:
        return np.unique([*values.astype(np.float64), *also])
    parts = most // 2
    tail = 1 - np.logspace(-5, 0, most - parts)
    picked = [
        np.quantile(part, shares, method="higher")
        for part, shares in ((normal, tail), (anomalous, np.linspace(0, 1, parts)))
        if len(part)
    ]
    return np.unique(np.concatenate([*picked, also])).astype(np.float64)


def image_points(scores: NDArray[Any], labels: NDArray[Any], also: Sequence[float] = ()) -> OperatingPoints | None:
    """Return the points of scores (N,) with labels (N,), 1 for anomalous; None unless both labels occur.

    Scores that are not finite are left out. The thresholds ``also`` are among those of the points.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    known = np.isfinite(scores)
    return _points(scores[known & (labels == 0)], scores[known & (labels == 1)], also)


def pixel_points(maps: NDArray[Any], masks: NDArray[Any], also: Sequence[float] = ()) -> OperatingPoints | None:
    """Return the points of maps (N, H, W) with masks (N, H, W), bool; None unless both kinds of pixels occur.

    ``pro`` is the mean share of a connected region that is found. ``also`` are thresholds to have among them.

    Source: Bergmann et al., CVPR 2020, "Uninformed Students", section 4.

    Raises:
        VaexError: when the shapes differ.
    """
    maps, masks = np.asarray(maps, np.float64), np.asarray(masks, bool)
    if maps.shape != masks.shape or maps.ndim != 3:
        raise VaexError(f"Curves need maps and masks of one shape (N, H, W), got {maps.shape} and {masks.shape}.")
    known = np.isfinite(maps)
    points = _points(maps[known & ~masks], maps[known & masks], also)
    if points is None:
        return None
    found: list[Floats] = []
    for one, mask in zip(maps, masks, strict=True):
        labels, count = label_regions(mask)
        found += [_share(one[labels == number], points.thresholds) for number in range(1, count + 1)]
    return OperatingPoints(points.thresholds, points.fpr, points.tpr, points.precision, np.mean(found, axis=0))


def _points(normal: Floats, anomalous: Floats, also: Sequence[float]) -> OperatingPoints | None:
    if not len(normal) or not len(anomalous):
        return None
    thresholds = chosen_thresholds(normal, anomalous, also=also)
    fpr, tpr = _share(normal, thresholds), _share(anomalous, thresholds)
    hits, alarms = tpr * len(anomalous), fpr * len(normal)
    precision = np.divide(hits, hits + alarms, out=np.full_like(hits, np.nan), where=hits + alarms > 0)
    return OperatingPoints(thresholds, fpr, tpr, precision)


def _share(values: Floats, thresholds: Floats) -> Floats:
    return 1 - np.searchsorted(np.sort(values), thresholds, side="left") / max(len(values), 1)
