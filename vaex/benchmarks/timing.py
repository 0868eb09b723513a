"""Timing several ways of doing the same thing side by side, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from vaex.errors import VaexError

MOST_REPEATS = 100
"""Calls per sample at most, however short a call is."""


class Contestant(NamedTuple):
    """One of the things that are compared."""

    name: str
    call: Callable[[], Any]


class Spread(NamedTuple):
    """Quartiles of a sample."""

    low: float
    median: float
    high: float


class Timing(NamedTuple):
    """Seconds per call, one number per round, and their ratios to the floor's of the same round.

    ``once`` marks a call over the budget: its single, cold call stands for all rounds.
    """

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    once: bool = False


def quartiles(values: Sequence[float]) -> Spread:
    """Return the quartiles of ``values``, linearly interpolated."""
    low, median, high = np.percentile(np.asarray(values, np.float64), [25, 50, 75])
    return Spread(float(low), float(median), float(high))


def clock_of(device: str) -> Callable[[], float]:
    """Return the clock of ``device`` in seconds: the process's CPU time, or on cuda the wall once the GPU is idle.

    Raises:
        VaexError: for a device without such a clock.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return time.process_time
    if kind == "cuda":

        def idle_wall() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return idle_wall
    raise VaexError(f"vaex bench measures on cpu and cuda, got device={device}.")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU work in one thread while the body runs, so that CPU time is what a call costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(
    contestants: Sequence[Contestant],
    rounds: int,
    clock: Callable[[], float],
    budget: float = math.inf,
    least: float = 0.05,
) -> dict[str, Timing]:
    """Return the timing of each contestant, by name; the first one is the floor of the ratios.

    A warm-up call of each comes first. Then every round runs all of them in turn, each round beginning with another
    one, so that none always follows the same neighbour. A sample repeats the call until ``least`` seconds are filled by
    the warm-up's measure. A call that took more than ``budget`` seconds in the warm-up is not made again; the floor is
    repeated whatever it takes.

    Raises:
        VaexError: for fewer than one round.
    """
    if rounds < 1:
        raise VaexError(f"rounds must be at least 1, got {rounds}.")
    first = {one.name: _sample(one, 1, clock) for one in contestants}
    floor = contestants[0].name
    kept = [one for one in contestants if one.name == floor or first[one.name] <= budget]
    repeats = {one.name: _repeats(first[one.name], least) for one in kept}
    samples: dict[str, list[float]] = {one.name: [] for one in kept}
    for number in range(rounds):
        turn = number % len(kept)
        for one in [*kept[turn:], *kept[:turn]]:
            samples[one.name].append(_sample(one, repeats[one.name], clock))
    usual = quartiles(samples[floor]).median
    return {
        one.name: Timing(
            tuple(samples[one.name]),
            tuple(own / base for own, base in zip(samples[one.name], samples[floor], strict=True)),
        )
        if one.name in samples
        else Timing((first[one.name],), (first[one.name] / usual,), once=True)
        for one in contestants
    }


def _repeats(seconds: float, least: float) -> int:
    return MOST_REPEATS if seconds * MOST_REPEATS <= least else max(1, math.ceil(least / seconds))


def _sample(one: Contestant, repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        one.call()
    return (clock() - start) / repeats
