"""Interleaved timing on a clock that only the contestants move."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vaex.benchmarks.timing import MOST_REPEATS, Contestant, clock_of, interleaved, one_thread, quartiles
from vaex.errors import VaexError


class FakeTime:
    """A clock of whole seconds, and contestants that take some of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now

    def contestant(self, name: str, seconds: Callable[[int], float]) -> Contestant:
        def call() -> None:
            self.now += seconds(self.order.count(name))
            self.order.append(name)

        return Contestant(name, call)


def test_every_round_runs_all_in_turn_and_each_round_begins_with_another() -> None:
    fake = FakeTime()
    contestants = [fake.contestant(name, lambda _: 1.0) for name in "abc"]
    interleaved(contestants, 4, fake.clock)
    assert "".join(fake.order) == "abc" + "abc" + "bca" + "cab" + "abc"  # the warm-up first


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that gets slower by a factor of 10 in the second round moves no ratio."""
    fake = FakeTime()
    slow = (99.0, 1.0, 10.0, 1.0)  # the warm-up, then three rounds
    found = interleaved(
        [fake.contestant("floor", lambda n: slow[n]), fake.contestant("own", lambda n: 3 * slow[n])],
        3,
        fake.clock,
    )
    assert found["floor"].seconds == (1.0, 10.0, 1.0)
    assert found["own"].seconds == (3.0, 30.0, 3.0)
    assert found["own"].ratios == (3.0, 3.0, 3.0)
    assert found["floor"].ratios == (1.0, 1.0, 1.0)


def test_a_call_over_the_budget_is_made_once_and_compared_with_the_median_floor() -> None:
    fake = FakeTime()
    floors = (50.0, 2.0, 4.0, 8.0)  # the floor's warm-up is over the budget, too, but the floor always stays
    found = interleaved(
        [
            fake.contestant("floor", lambda n: floors[n]),
            fake.contestant("slow", lambda _: 21.0),
            fake.contestant("at the budget", lambda _: 20.0),
        ],
        3,
        fake.clock,
        budget=20.0,
    )
    assert fake.order.count("slow") == 1
    assert found["slow"].once
    assert found["slow"].seconds == (21.0,)
    assert found["slow"].ratios == (21.0 / 4.0,)
    assert not found["floor"].once
    assert not found["at the budget"].once
    assert found["at the budget"].ratios == (10.0, 5.0, 2.5)


def test_short_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    fake = FakeTime()
    found = interleaved(
        [fake.contestant("floor", lambda _: 0.3), fake.contestant("free", lambda _: 0.0)], 1, fake.clock, least=1.0
    )
    assert fake.order.count("floor") == 1 + 4  # 3 x 0.3 s would be too short
    assert fake.order.count("free") == 1 + MOST_REPEATS
    assert found["floor"].seconds[0] == pytest.approx(0.3)  # per call


def test_quartiles() -> None:
    values = [5.0, 1.0, 2.0, 9.0]
    assert quartiles(values) == tuple(np.quantile(values, [0.25, 0.5, 0.75]))


def test_cpu_clock_does_not_count_sleep() -> None:
    clock = clock_of("cpu")
    start, wall = clock(), time.monotonic()
    time.sleep(0.05)
    assert time.monotonic() - wall >= 0.05
    assert clock() - start < 0.04


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), one_thread():
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_refusals() -> None:
    with pytest.raises(VaexError, match="rounds must be at least 1"):
        interleaved([Contestant("floor", lambda: None)], 0, time.process_time)
    with pytest.raises(VaexError, match="cpu and cuda"):
        clock_of("meta")
