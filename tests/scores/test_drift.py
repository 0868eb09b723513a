"""Drift of images that pass, against the definition of the Kolmogorov-Smirnov statistic."""

from __future__ import annotations

import numpy as np
import pytest

from vaex.scores.drift import drift_of


def largest_difference(a: list[float], b: list[float]) -> float:
    return max(abs(sum(x <= at for x in a) / len(a) - sum(x <= at for x in b) / len(b)) for at in [*a, *b])


def test_statistic_of_those_that_pass() -> None:
    generator = np.random.default_rng(0)
    now, normal = generator.normal(0.3, 1, 60).tolist(), generator.normal(0, 1, 40).tolist()
    found = drift_of([*now, 9.0, 10.0], [*normal, 12.0], 5.0)
    assert found is not None
    assert found.statistic == pytest.approx(largest_difference(now, normal))
    assert (found.images, found.normal_images) == (60, 40)
    assert found.median == pytest.approx(sorted(now)[29] / 2 + sorted(now)[30] / 2)
    assert found.normal_median == pytest.approx(sorted(normal)[19] / 2 + sorted(normal)[20] / 2)


def test_a_shift_is_told_and_none_is_not() -> None:
    generator = np.random.default_rng(1)
    normal = generator.normal(size=50)
    told = [drift_of(generator.normal(size=100), normal, 5.0) for _ in range(20)]
    assert sum(one is not None and one.told for one in told) <= 2
    shifted = drift_of(generator.normal(2, 1, 100), normal, 5.0)
    assert shifted is not None
    assert shifted.told


@pytest.mark.parametrize(
    ("now", "normal"), [([1.0] * 7, [1.0] * 50), ([1.0] * 50, [1.0] * 7), ([9.0] * 50, [1.0] * 50)]
)
def test_too_few_say_nothing(now: list[float], normal: list[float]) -> None:
    assert drift_of(now, normal, 5.0) is None
