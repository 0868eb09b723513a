"""`vaex bench what=train`: a FactorVAE step beside the reproductions' loop, a hand-written loop and the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from vaex.benchmarks.lightning_steps import LightningSteps, built
from vaex.benchmarks.steps import FLOOR, HandWritten, Products, Reproductions
from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Timing, clock_of, interleaved, one_thread, quartiles
from vaex.benchmarks.units import has_bf16
from vaex.errors import VaexError

VAEX, PEER, HAND = "vaex, under Lightning", "the reproductions' loop, rewritten", "hand-written, without Lightning"
VAEX_LAST = f"{VAEX}, channels_last"
VAEX_BF16, PEER_BF16 = f"{VAEX}, bf16", "the reproductions' loop, bf16"
FASTER, FASTER_BF16, OVERHEAD = 1.2, 2.0, 1.05
"""Goals: times the speed of the reproductions' loop, in fp32 and bf16; times the hand-written loop's time, at most."""
COMPARED = {
    "times_faster_than_reproductions": (PEER, VAEX),
    "times_hand_written": (VAEX, HAND),
    "times_faster_by_channels_last": (VAEX, VAEX_LAST),
}
"""Pairs of contestants whose seconds are divided, the first by the second."""

ATTENTION: dict[str, dict[str, Any]] = {
    "attention loss, conv4, all pairs": {"layer": "conv4", "pairs": "all"},
    "attention loss, conv1, a random pair": {"layer": "conv1", "pairs": "random"},
    "attention loss, conv1, all pairs": {"layer": "conv1", "pairs": "all"},
}
GOALS = dict(zip(ATTENTION, (1.05, 1.6, 4.2), strict=True))
"""Most that a step with the attention loss may take, as a multiple of FactorVAE's step."""


class Result(NamedTuple):
    """Timings by contestant, the first one being what the others are multiples of.

    ``steps`` of FactorVAE beside the floor, ``attention`` loss over vaex's step, ``bf16`` with channels_last over the
    reproductions' loop in fp32; ``units``: whether ``device`` computes in bf16, or only pretends to.
    """

    steps: dict[str, Timing]
    attention: dict[str, Timing]
    bf16: dict[str, Timing]
    units: bool
    batch: int
    device: str = "cpu"


def run_training(batch: int, rounds: int, budget: float = 10.0, device: str = "cpu") -> Result:
    """Measure a step with ``batch`` images for the VAE and as many permuted: on a CPU the time of one thread, in turn.

    A device without bf16 units makes a single, cold step in bf16 of each contestant; one that has them makes no second
    step of a contestant that takes more than ``budget`` seconds.

    Raises:
        VaexError: for fewer than two images, or fewer than one round.
    """
    if batch < 2:
        raise VaexError(f"what=train needs a batch_size of at least 2, got {batch}.")
    random = torch.rand(2 * batch, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    images, clock, units = (random > 0.9).float().to(device), clock_of(device), has_bf16(device)
    running: list[LightningSteps] = []

    def lightning(
        attention: dict[str, Any] | None = None, bf16: bool = False, channels_last: bool = False
    ) -> Callable[[], None]:
        precision = "bf16-mixed" if bf16 else "32-true"
        running.append(LightningSteps(built(attention, channels_last or bf16), images, Path(folder), precision))
        return running[-1]

    with one_thread(), TemporaryDirectory() as folder:
        try:
            plain = Contestant(VAEX, lightning())
            peer = Contestant(PEER, Reproductions(built().to(device), images))
            hand = Contestant(HAND, HandWritten(built().to(device), images))
            last = Contestant(VAEX_LAST, lightning(channels_last=True))
            steps = [Contestant(FLOOR, Products(built().to(device), images)), peer, hand, plain, last]
            found = interleaved(steps, rounds, clock)
            terms = [plain, *(Contestant(name, lightning(options)) for name, options in ATTENTION.items())]
            attention = interleaved(terms, rounds, clock)
            halves = [
                peer,
                Contestant(PEER_BF16, Reproductions(built(channels_last=True).to(device), images, bf16=True)),
                Contestant(VAEX_BF16, lightning(bf16=True)),
            ]
            bf16 = interleaved(halves, rounds, clock, budget) if units else interleaved(halves, 1, clock, 0.0)
            return Result(found, attention, bf16, units, batch, device)
        finally:
            for one in running:
                one.close()


def _ratios(timings: dict[str, Timing], over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(timings[over].seconds, timings[under].seconds, strict=True)]


def _line(name: str, seconds: Sequence[float], ratios: Sequence[float], goal: str) -> tuple[str, ...]:
    spread = quartiles(ratios)
    return (
        name,
        f"{1e3 * quartiles(seconds).median:.1f}",
        f"{spread.median:.2f}",
        f"{spread.low:.2f}-{spread.high:.2f}",
        goal,
    )


def training_tables(result: Result) -> list[Table]:
    """Return steps as multiples of the floor, and steps with the attention loss as multiples of a plain one."""
    steps = result.steps
    columns = ("", "ms", "x first", "quartiles", "goal")
    faster, beyond, laid = (quartiles(_ratios(steps, *pair)) for pair in COMPARED.values())
    notes = (
        f"Batch {result.batch} for the VAE and as many images whose codes are permuted, in fp32; {_clock(result)}, in "
        "turn. The floor is the matrix products of a step alone.",
        f"vaex is {faster.median:.2f} ({faster.low:.2f}-{faster.high:.2f}) times as fast as the reproductions' loop, "
        f"goal >= {FASTER:g}: {'met' if faster.median >= FASTER else 'MISSED'}.",
        f"vaex takes {beyond.median:.2f} ({beyond.low:.2f}-{beyond.high:.2f}) times as long as the hand-written loop, "
        f"goal <= {OVERHEAD:g}: {'met' if beyond.median <= OVERHEAD else 'MISSED'}.",
        f"With channels_last vaex is {laid.median:.2f} ({laid.low:.2f}-{laid.high:.2f}) times as fast as without, also "
        "in fp32.",
    )
    rows = tuple(_line(name, timing.seconds, timing.ratios, "-") for name, timing in steps.items())

    def told(name: str, timing: Timing) -> str:
        if name not in GOALS:
            return "-"
        return f"<= {GOALS[name]:g} {'met' if quartiles(timing.ratios).median <= GOALS[name] else 'MISSED'}"

    terms = tuple(_line(name, one.seconds, one.ratios, told(name, one)) for name, one in result.attention.items())
    return [
        Table("A FactorVAE step", columns, rows, notes),
        Table("The attention loss over FactorVAE's step", columns, terms, ("Second-order gradients, fp32.",)),
        _bf16_table(result, columns),
    ]


def _clock(result: Result) -> str:
    return "CPU time of one thread" if result.device == "cpu" else f"wall time on {result.device}"


def _bf16_table(result: Result, columns: tuple[str, ...]) -> Table:
    """Return steps in bf16 as multiples of the reproductions' in fp32, which is how they train."""
    timings = result.bf16
    faster = quartiles([1 / ratio for ratio in timings[VAEX_BF16].ratios])
    like = quartiles(timings[PEER_BF16].seconds).median / quartiles(timings[VAEX_BF16].seconds).median
    if result.units:
        verdict = "met" if faster.median >= FASTER_BF16 else "MISSED"
    else:
        verdict = f"not judged: this {'CPU' if result.device == 'cpu' else 'GPU'} has no bf16 units"
    once = [name for name, one in timings.items() if one.once]
    notes = (
        f"autocast to bf16, tensors channels_last; {_clock(result)}, in turn."
        + (f" A single, cold step: {'; '.join(once)}." if once else ""),
        f"vaex in bf16 is {faster.median:.2f} ({faster.low:.2f}-{faster.high:.2f}) times as fast as the reproductions' "
        f"loop, which is in fp32, goal >= {FASTER_BF16:g}: {verdict}; {like:.2f} times as fast as that loop in bf16.",
    )
    rows = tuple(_line(name, one.seconds, one.ratios, "-") for name, one in timings.items())
    return Table("A FactorVAE step in bf16", columns, rows, notes)


def training_content(result: Result) -> dict[str, Any]:
    """Return the result as plain values for JSON; seconds per step, and ratios to the first of each group."""

    def rows(timings: dict[str, Timing]) -> dict[str, Any]:
        return {
            name: {"seconds": quartiles(one.seconds)._asdict(), "ratio": quartiles(one.ratios)._asdict()}
            for name, one in timings.items()
        }

    compared = {name: quartiles(_ratios(result.steps, *pair))._asdict() for name, pair in COMPARED.items()}
    return {
        "batch": result.batch,
        "device": result.device,
        "steps": rows(result.steps),
        "attention": rows(result.attention),
        "bf16": rows(result.bf16),
        "bf16_units": result.units,
        **compared,
    }
