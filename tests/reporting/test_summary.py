"""Mean, spread and intervals against scipy and closed forms."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from vaex.errors import VaexError
from vaex.reporting.summary import bootstrap_interval, summarise, t_interval

VALUES = [0.981, 0.984, 0.979, 0.99, 0.987]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_student_agrees_with_scipy(count: int, confidence: float) -> None:
    values = VALUES[:count]
    expected = stats.t.interval(confidence, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values, confidence) == pytest.approx(expected, rel=1e-12)


def test_student_of_two_values_in_closed_form() -> None:
    """One degree of freedom is Cauchy's distribution: its quantile is a tangent."""
    half = math.tan(math.pi * 0.475) * abs(0.6 - 0.2) / 2
    assert t_interval([0.2, 0.6]) == pytest.approx((0.4 - half, 0.4 + half))


def test_summary() -> None:
    found = summarise(VALUES)
    assert found is not None
    assert found.mean == pytest.approx(statistics.mean(VALUES))
    assert found.std == pytest.approx(statistics.stdev(VALUES))
    assert (found.low, found.high) == pytest.approx(t_interval(VALUES))
    assert found.values == tuple(VALUES)


def test_what_is_not_finite_is_left_out() -> None:
    assert summarise([math.nan, 1.0, 3.0, math.inf]) == summarise([1.0, 3.0])
    assert summarise([math.nan]) is None
    assert summarise([]) is None


def test_one_seed_has_no_spread() -> None:
    found = summarise([0.5])
    assert found is not None
    assert (found.mean, found.std, found.low, found.high) == (0.5, None, None, None)


def test_no_interval_keeps_the_spread() -> None:
    found = summarise([1.0, 3.0], "none")
    assert found is not None
    assert found.std == pytest.approx(math.sqrt(2))
    assert found.low is None


def test_bootstrap_of_two_values_in_closed_form() -> None:
    """The means of the resamples are 0, 1/2, 1/2 and 1, a quarter of the mass each."""
    assert bootstrap_interval([0.0, 1.0], 0.8) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], 0.4) == (0.5, 0.5)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_bootstrap_agrees_with_scipy(count: int) -> None:
    values = np.random.default_rng(1).normal(0.9, 0.02, count)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = other.high - other.low
    assert bootstrap_interval(values.tolist()) == pytest.approx((other.low, other.high), abs=0.03 * width)


def test_bootstrap_is_the_same_every_time() -> None:
    values = np.random.default_rng(1).random(9).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_wrong_options_are_told() -> None:
    with pytest.raises(VaexError, match="did you mean 'bootstrap'"):
        summarise([1.0], "bootsrap")
    with pytest.raises(VaexError, match="between 0 and 1"):
        summarise([1.0], "t", 95)
