"""Mean, spread and confidence interval of one measure over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from vaex.errors import VaexError, unknown

INTERVALS = ("t", "bootstrap", "none")
ALL_RESAMPLES = 50_000
"""Up to so many resamples every one of them is taken, so that nothing is drawn by chance: 6 seeds give 46,656."""


@dataclass(frozen=True)
class Summary:
    """One cell: ``values`` one per seed, their mean, and where there are two or more their spread and interval.

    A published number has no values; ``digits`` are the decimals that it was printed with. ``resolution`` is the
    height and width in pixels at which maps and masks were compared, of measures that count pixels. ``partial`` is
    (measured, asked) where fewer runs measured it than there are.
    """

    mean: float
    values: tuple[float, ...] = ()
    std: float | None = None
    low: float | None = None
    high: float | None = None
    digits: int | None = None
    resolution: int | None = None
    partial: tuple[int, int] | None = None


def summarise(values: Sequence[float], interval: str = "t", confidence: float = 0.95) -> Summary | None:
    """Return mean, sample standard deviation (n - 1) and interval of the mean of the values that are finite.

    ``interval`` is "t" (Student), "bootstrap" or "none". None where no finite value is left.

    Raises:
        VaexError: for another interval, or a confidence outside of (0, 1).
    """
    if interval not in INTERVALS:
        raise unknown("interval", interval, INTERVALS)
    if not 0 < confidence < 1:
        raise VaexError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}.")
    finite = tuple(float(value) for value in values if math.isfinite(value))
    if not finite:
        return None
    mean = math.fsum(finite) / len(finite)
    if len(finite) < 2:
        return Summary(mean, finite)
    std = float(np.std(finite, ddof=1))
    if interval == "none":
        return Summary(mean, finite, std)
    low, high = (t_interval if interval == "t" else bootstrap_interval)(finite, confidence)
    return Summary(mean, finite, std, low, high)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of two or more values, n - 1 degrees of freedom."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 20_000
) -> tuple[float, float]:
    """Return the percentile interval of the mean over resamples with replacement.

    All resamples are taken where they are at most `ALL_RESAMPLES`, else ``resamples`` of a fixed seed. With few values
    the interval is too narrow: it never leaves their range.
    """
    numbers = np.asarray(values, dtype=float)
    count = len(numbers)
    if count**count <= ALL_RESAMPLES:
        chosen = np.indices((count,) * count).reshape(count, -1).T
    else:
        chosen = np.random.default_rng(0).integers(0, count, (resamples, count))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    # Resamples of few values are a few numbers with masses: between two of them there is nothing to interpolate
    low, high = np.quantile(numbers[chosen].mean(1), tails, method="inverted_cdf")
    return float(low), float(high)
