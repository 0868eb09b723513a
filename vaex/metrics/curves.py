"""Areas and maxima of curves over all thresholds, from the ranks of the anomalous pixels alone.

A threshold between two anomalous pixels never does better than at the upper one, and an area is a sum over anomalous
pixels of how far each has come when the false alarms reach the limit. So nothing but these pixels is looked at.

``above`` and ``at_least`` are, for each anomalous pixel, the false positive rate just above its score and with its
ties: between the two its curve rises linearly, which counts ties by one half. A pixel of which only an interval is
known is treated as one that ties with all normal pixels of the interval.
"""

from __future__ import annotations

import math

import numpy as np

from vaex.metrics.ordering import Floats


def mean_or_nan(values: Floats, weights: Floats) -> float:
    """Return the weighted mean, NaN where there is no weight."""
    total = float(weights.sum())
    return float(weights @ values) / total if total else math.nan


def rank_area(weights: Floats, above: Floats, at_least: Floats) -> float:
    """Return the area under the ROC curve, in [0, 1]: the chance that an anomalous pixel scores above a normal one.

    All (n,), rates in [0, 1]. NaN without anomalous pixels.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
    """
    return mean_or_nan(1 - (above + at_least) / 2, weights)


def overlap_area(weights: Floats, above: Floats, at_least: Floats, limit: float) -> float:
    """Return AUPRO in [0, 1]: the mean share of a region that is found, averaged over false positive rates to a limit.

    ``weights`` (n,) are 1 / size of the pixel's region, so that each region counts the same; ``limit`` in (0, 1].

    Source: Bergmann et al., CVPR 2020, "Uninformed Students", section 4 (per-region overlap).
    Differs: in closed form instead of trapezoids over chosen thresholds: exact, also at the cut.
    """
    span = at_least - above
    reached = np.clip(limit, above, at_least)
    rising = np.divide((reached - above) ** 2, 2 * span, out=np.zeros_like(span), where=span > 0)
    return mean_or_nan((np.maximum(limit - at_least, 0) + rising) / limit, weights)


def log_area(weights: Floats, above: Floats, at_least: Floats, bounds: tuple[float, float]) -> float:
    """Return AUPIMO averaged over images, in [0, 1]: recall averaged over the logarithm of a false positive rate.

    ``weights`` (n,) are 1 / anomalous pixels of the image, so that each anomalous image counts the same. The rates are
    those of normal images alone, averaged over these; ``bounds`` are the lowest and highest rate, 0 < low < high <= 1.

    Source: Bertoldo et al., BMVC 2024, "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low
    Tolerance".
    Differs: in closed form instead of trapezoids over chosen thresholds; ties rise linearly in the rate.
    """
    low, high = bounds
    span = at_least - above
    start, end = np.clip(low, above, at_least), np.clip(high, above, at_least)
    rises = end > start
    growth = np.log(np.divide(end, start, out=np.ones_like(span), where=rises & (start > 0)))
    rising = np.divide(end - start - above * growth, span, out=np.zeros_like(span), where=rises)
    whole = np.log(high / np.clip(at_least, low, high))
    return mean_or_nan((whole + rising) / math.log(high / low), weights)


def precision_area(weights: Floats, hits: Floats, alarms: Floats) -> float:
    """Return the average precision in (0, 1]: the precision at each anomalous pixel's score, averaged over these.

    ``hits`` and ``alarms`` (n,) are how many anomalous and normal pixels score at least as high.

    Source: scikit-learn, `sklearn.metrics.average_precision_score`.
    Differs: summed pixel by pixel, not threshold by threshold; the same number.
    """
    return mean_or_nan(np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits > 0), weights)


def best_cuts(hits: Floats, alarms: Floats, positives: float) -> tuple[float, float, int]:
    """Return the largest IoU, the largest F1, both in (0, 1], and where in the arrays the latter is reached.

    ``hits`` and ``alarms`` (n,), n > 0: anomalous and normal pixels at or above each threshold, over all images.
    """
    overlap, f1 = hits / (positives + alarms), 2 * hits / (positives + hits + alarms)
    best = int(f1.argmax())
    return float(overlap.max()), float(f1[best]), best
