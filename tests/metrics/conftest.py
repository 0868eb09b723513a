"""Localisation by its definitions: a sweep over all thresholds, flood fill, areas by trapezoids and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Oracle = Callable[..., dict[str, float]]


def flood(mask: Bools) -> list[list[tuple[int, int]]]:
    """Return the pixels of each 8-connected region, found by walking from pixel to pixel."""
    left = {(int(i), int(j)) for i, j in np.argwhere(mask)}
    regions = []
    while left:
        walk, region = [left.pop()], []
        while walk:
            i, j = walk.pop()
            region.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            walk += near
        regions.append(region)
    return regions


def linear_mean(x: Array, y: Array, limit: float) -> float:
    """Return the mean over [0, limit] of the broken line through the points."""
    rises = (x[1:] > x[:-1]) & (x[:-1] < limit)
    x0, x1, y0, y1 = x[:-1][rises], x[1:][rises], y[:-1][rises], y[1:][rises]
    end = np.minimum(x1, limit)
    return float(((end - x0) * (2 * y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2).sum()) / limit


def log_mean(x: Array, y: Array, low: float, high: float) -> float:
    """Return the mean of the broken line over the logarithm of x from low to high, by Gauss's quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    a, b = np.maximum(x[:-1], low), np.minimum(x[1:], high)
    x0, y0, slope = x[:-1][a < b], y[:-1][a < b], (np.diff(y)[a < b] / np.diff(x)[a < b])
    a, b = np.log(a[a < b]), np.log(b[a < b])
    u = (a + b)[:, None] / 2 + nodes * (b - a)[:, None] / 2
    values = (y0[:, None] + slope[:, None] * (np.exp(u) - x0[:, None])) @ weights
    return float((values * (b - a)).sum()) / 2 / math.log(high / low)


def by_definition(
    maps: Array, masks: Bools, max_fpr: float = 0.3, bounds: tuple[float, float] = (1e-5, 1e-4)
) -> dict[str, float]:
    """Return the pixel measures of maps and masks (B, H, W), some anomalous: counts above every single threshold."""
    thresholds = np.unique(maps)[::-1]

    def called(values: Array) -> NDArray[np.int_]:
        return len(values) - np.searchsorted(np.sort(values), thresholds, "left")

    hits, alarms = called(maps[masks]), called(maps[~masks])
    regions = [(b, *np.array(region).T) for b, mask in enumerate(masks) for region in flood(mask)]
    anomalous = [b for b, mask in enumerate(masks) if mask.any()]
    normal = [b for b in range(len(maps)) if b not in anomalous]
    positives, negatives = int(masks.sum()), int((~masks).sum())
    f1 = 2 * hits / (positives + hits + alarms)
    result = {
        "best_iou": float((hits / (positives + alarms)).max()),
        "f1_max": float(f1.max()),
        "f1_max_threshold": float(thresholds[f1.argmax()]),
    }
    if negatives:
        fpr = np.append(0, alarms / negatives)
        pro = np.append(0, np.mean([called(maps[b, i, j]) / len(i) for b, i, j in regions], 0))
        ranks = np.unique(maps.flatten(), return_inverse=True)[1]  # scikit-learn takes no infinities
        result["pixel_auroc"] = float(roc_auc_score(masks.flatten(), ranks))
        result["pixel_ap"] = float(average_precision_score(masks.flatten(), ranks))
        result["aupro"] = linear_mean(fpr, pro, max_fpr)
        result["aupro_005"] = linear_mean(fpr, pro, 0.05)
    if normal:
        rates = np.append(0, np.mean([called(maps[b].flatten()) / maps[b].size for b in normal], 0))
        recalls = [np.append(0, called(maps[b][masks[b]]) / masks[b].sum()) for b in anomalous]
        result["aupimo"] = float(np.mean([log_mean(rates, recall, *bounds) for recall in recalls]))
    return result


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """Localisation by its definitions."""
    return by_definition
