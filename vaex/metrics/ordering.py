"""Scores as integers in the same order, and how many of them lie above others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int32]
Floats = NDArray[np.float64]
Values = NDArray[np.float32]


def to_keys(values: Values) -> Keys:
    """Return an integer per float32, in the same order over the whole range: equal exactly where the floats are equal.

    No NaN among them; infinities are ordered too. ``to_values`` goes back.
    """
    bits = np.add(values, np.float32(0)).view(np.int32)  # -0.0 becomes 0.0, which it equals
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def to_values(keys: Keys) -> Values:
    """Return the float32 of each key."""
    return (keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


class Tally(NamedTuple):
    """Numbers to count in: single keys, and masses of which only the interval is known, each sorted for itself.

    ``keys`` (n,) ascending. ``lows`` and ``highs`` (m,) ascending hold the ends of the intervals, which contain both
    ends; the sums (m + 1,) the mass of those before each.
    """

    keys: Keys
    lows: Keys
    low_sums: Floats
    highs: Keys
    high_sums: Floats

    @property
    def total(self) -> float:
        """Everything that is counted."""
        return len(self.keys) + float(self.low_sums[-1])

    def around(self, low: Keys, high: Keys) -> tuple[Floats, Floats]:
        """Return how much lies above ``high`` and how much at or above ``low``, (n,) each, for intervals ascending.

        A mass whose interval reaches over the limit counts by half.
        """
        count = len(self.keys)
        first = np.searchsorted(self.keys, low, "left")
        last = first.copy()
        # Most pixels meet no equal one, and then both ends agree
        apart = low != high
        if count:
            apart |= self.keys[np.minimum(first, count - 1)] == low
        last[apart] = np.searchsorted(self.keys, high[apart], "right")
        above, at_least = (count - last).astype(np.float64), (count - first).astype(np.float64)
        if len(self.lows):
            for ends, sums in ((self.lows, self.low_sums), (self.highs, self.high_sums)):
                above += (sums[-1] - sums[np.searchsorted(ends, high, "right")]) / 2
                at_least += (sums[-1] - sums[np.searchsorted(ends, low, "left")]) / 2
        return above, at_least


def tally(keys: Keys, low: Keys, high: Keys, mass: Floats) -> Tally:
    """Return the tally of ascending ``keys`` (n,), and of intervals (m,) in any order with their ``mass`` (m,)."""

    def sums(order: NDArray[np.intp]) -> Floats:
        return np.concatenate([[0.0], np.cumsum(mass[order])])

    held = mass > 0
    low, high, mass = low[held], high[held], mass[held]
    by_low, by_high = np.argsort(low), np.argsort(high)
    return Tally(keys, low[by_low], sums(by_low), high[by_high], sums(by_high))
