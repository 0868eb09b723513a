"""Keys are in the order of the floats, and tallies count like loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaex.metrics.ordering import tally, to_keys, to_values

EDGES = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 1.0, np.nextafter(np.float32(1), 2)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False) | st.sampled_from(EDGES), min_size=1, max_size=30))
def test_keys_are_ordered_as_the_floats_and_go_back(given_values: list[float]) -> None:
    values = np.array(given_values, np.float32)
    keys = to_keys(values)
    assert keys.dtype == np.int32
    assert ((keys[:, None] < keys) == (values[:, None] < values)).all()
    assert ((keys[:, None] == keys) == (values[:, None] == values)).all()
    assert (to_values(keys) == values).all()


intervals = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 6), st.integers(0, 4)), max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=12), intervals, st.integers(-12, 12), st.integers(0, 8))
def test_tallies_count_what_reaches_over_by_half(
    keys: list[int], masses: list[tuple[int, int, int]], low: int, width: int
) -> None:
    lows, widths, mass = np.array(masses, np.int32).reshape(-1, 3).T
    counted = tally(np.sort(np.array(keys, np.int32)), lows, lows + widths, mass.astype(np.float64))
    ends = np.array([low], np.int32), np.array([low + width], np.int32)
    above, at_least = counted.around(*ends)
    expected = [float(sum(key > low + width for key in keys)), float(sum(key >= low for key in keys))]
    for start, wide, weight in masses:
        expected[0] += weight * ((start > low + width) + (start + wide > low + width)) / 2
        expected[1] += weight * ((start >= low) + (start + wide >= low)) / 2
    assert [above[0], at_least[0]] == pytest.approx(expected)
    assert counted.total == len(keys) + sum(weight for *_, weight in masses)
