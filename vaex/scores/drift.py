"""Do the images that look normal still score as they did at calibration?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaex.scores.thresholds import Values

FEWEST = 8
"""Images on either side below which nothing is said."""

SIGNIFICANCE = 0.01
"""Probability of a warning where nothing has changed."""


class Drift(NamedTuple):
    """Two-sample Kolmogorov-Smirnov test of images that pass against the normal images of calibration that pass."""

    statistic: float  # the largest difference of the two shares below a score, in [0, 1]
    p_value: float
    median: float  # of the images that pass
    normal_median: float  # of the normal images of calibration that pass
    images: int
    normal_images: int

    @property
    def told(self) -> bool:
        """Whether this is worth a warning."""
        return self.p_value < SIGNIFICANCE


def drift_of(scores: Values, normal_scores: Values, threshold: float) -> Drift | None:
    """Compare ``scores`` (N,) with ``normal_scores`` (M,), both where they are at most ``threshold``.

    None where fewer than `FEWEST` of either are left.

    Source: Hodges, "The significance probability of the Smirnov two-sample test", 1958.
    """
    from scipy.stats import ks_2samp

    passing, normal = (np.asarray(part, dtype=np.float64) for part in (scores, normal_scores))
    passing, normal = passing[passing <= threshold], normal[normal <= threshold]
    if min(len(passing), len(normal)) < FEWEST:
        return None
    found = ks_2samp(passing, normal)
    return Drift(
        float(found.statistic),
        float(found.pvalue),
        float(np.median(passing)),
        float(np.median(normal)),
        len(passing),
        len(normal),
    )
