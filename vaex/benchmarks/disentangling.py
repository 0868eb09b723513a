"""Metrics of disentanglement beside disentanglement_lib's algorithms on the same codes, and all of them together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vaex.benchmarks.disentanglement_lib import (
    Grid,
    beta_vae_by_points,
    factor_vae_by_votes,
    irs_by_groups,
    mig_by_pairs,
    modularity_by_pairs,
)
from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Timing, interleaved, one_thread, quartiles
from vaex.errors import VaexError
from vaex.metrics.disentanglement import beta_vae, factor_vae, irs, mig, modularity
from vaex.metrics.disentanglement.collection import SCORES, USUAL

SIZES = (3, 6, 40, 32, 32)
"""Values of dSprites' factors."""
ROWS = 10_000
"""Images that the library's metrics without votes look at."""
LIBRARY, VAEX = "library", "vaex"
GOALS = {"factor_vae": 6.0, "mig": 50.0}
"""How many times less CPU time than the library's algorithm."""
TOGETHER = 60.0
"""Goal in seconds, of all metrics together."""


class Pair(NamedTuple):
    """A metric twice: timings and values by contestant."""

    timings: Mapping[str, Timing]
    values: Mapping[str, float]


class Result(NamedTuple):
    """Pairs by metric; wall and CPU seconds of each metric on ``images`` codes; what was measured."""

    pairs: Mapping[str, Pair]
    seconds: Mapping[str, tuple[float, float]]
    images: int
    case: str


def drawn_codes(sizes: tuple[int, ...] = SIZES, latents: int = 10) -> Grid:
    """Return codes of a model that has learnt something: blurred factors, two of them mixed, and latents of noise.

    Raises:
        VaexError: for fewer latents than factors.
    """
    if latents < len(sizes):
        raise VaexError(f"what=disentanglement needs at least {len(sizes)} latents, got {latents}.")
    factors = np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int64)
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((len(factors), latents), np.float32)
    unit = ((factors - factors.mean(0)) / factors.std(0)).astype(np.float32)
    codes[:, : len(sizes)] = unit + 0.3 * codes[:, : len(sizes)]
    codes[:, -1] += 0.5 * unit[:, -1] + 0.5 * unit[:, -2]
    return Grid(codes, factors, sizes)


def run_disentanglement(rounds: int, count: int, sizes: tuple[int, ...] = SIZES, budget: float = math.inf) -> Result:
    """Measure CPU time in one thread, interleaved, and the wall time of all metrics but DCI by boosting.

    Raises:
        VaexError: ``count`` is more than there are codes.
    """
    grid = drawn_codes(sizes)
    if count > len(grid.codes):
        raise VaexError(f"codes must be at most {len(grid.codes)}, all images of the grid, got {count}.")
    generator = np.random.default_rng(1)
    rows = generator.permutation(len(grid.codes))[:ROWS]
    codes, factors = grid.codes[rows].astype(np.float64), grid.factors[rows]
    pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "factor_vae": (lambda: factor_vae_by_votes(grid), lambda: factor_vae(grid.codes, grid.factors)),
        "beta_vae": (lambda: beta_vae_by_points(grid), lambda: beta_vae(grid.codes, grid.factors)),
        "mig": (lambda: mig_by_pairs(codes, factors), lambda: mig(codes, factors)),
        "modularity": (lambda: modularity_by_pairs(codes, factors), lambda: modularity(codes, factors)),
        "irs": (lambda: irs_by_groups(codes, factors), lambda: irs(codes, factors)),
    }
    found = {}
    with one_thread():
        for name, (library, own) in pairs.items():
            contestants = [Contestant(LIBRARY, library), Contestant(VAEX, own)]
            timings = interleaved(contestants, rounds, time.process_time, budget)
            found[name] = Pair(timings, {LIBRARY: library(), VAEX: own()})
    some = generator.permutation(len(grid.codes))[:count]
    seconds = {}
    for name in USUAL:
        start = time.perf_counter(), time.process_time()
        SCORES[name](grid.codes[some], grid.factors[some], 0)
        seconds[name] = time.perf_counter() - start[0], time.process_time() - start[1]
    text = f"{len(grid.codes):,} codes of {grid.codes.shape[1]} latents, {len(sizes)} factors"
    return Result(found, seconds, count, text)


def disentanglement_tables(result: Result) -> list[Table]:
    """Return the speeds side by side, and the seconds of all metrics together."""
    rows = []
    for name, (timings, values) in result.pairs.items():
        faster = quartiles([1 / ratio for ratio in timings[VAEX].ratios])
        milliseconds = [1e3 * quartiles(timings[who].seconds).median for who in (LIBRARY, VAEX)]
        goal = GOALS.get(name)
        met = "-" if goal is None else f">= {goal:g} {'met' if faster.median >= goal else 'MISSED'}"
        cells = [f"{value:.1f}" for value in (*milliseconds, faster.median)]
        spread = f"{faster.low:.1f}-{faster.high:.1f}"
        rows.append((name, *cells, spread, met, *(f"{values[who]:.4f}" for who in (LIBRARY, VAEX))))
    notes = (
        f"{result.case}; metrics without votes look at {ROWS:,} of them. CPU time of one thread, taken in turn.",
        "The library's algorithms are rewritten and look codes up; its own program encodes 960,000 images for one "
        "factor_vae. Scores by votes differ by what is drawn.",
    )
    columns = ("", "library ms", "vaex ms", "times faster", "quartiles", "goal", "library score", "vaex score")
    wall, used = (sum(both[place] for both in result.seconds.values()) for place in (0, 1))
    lines = [(name, f"{own:.2f}", f"{cpu:.2f}", "-") for name, (own, cpu) in result.seconds.items()]
    verdict = f"<= {TOGETHER:g} {'met' if wall <= TOGETHER else 'MISSED'}"
    together = Table(
        "All metrics of one table",
        ("", "s", "CPU s", "goal"),
        (*lines, ("together", f"{wall:.2f}", f"{used:.2f}", verdict)),
        (f"{result.images:,} codes; wall time with all cores, and CPU time, which a busy machine changes less.",),
    )
    return [Table("Metrics of disentanglement", columns, tuple(rows), notes), together]


def disentanglement_content(result: Result) -> dict[str, Any]:
    """Return the result as plain values for JSON; seconds, and ratios of vaex to the library."""
    pairs = {
        name: {
            "seconds": {who: quartiles(timing.seconds)._asdict() for who, timing in timings.items()},
            "ratio": quartiles(timings[VAEX].ratios)._asdict(),
            "values": dict(values),
            "goal": GOALS.get(name),
        }
        for name, (timings, values) in result.pairs.items()
    }
    return {"case": result.case, "metrics": pairs, "codes": result.images, "together_seconds": dict(result.seconds)}
