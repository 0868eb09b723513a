"""`vaex bench what=attention`: what maps and the attention-disentanglement loss cost, as multiples of a floor."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaex.attention import latent_attention
from vaex.benchmarks.cases import ALL_PAIRS, RANDOM_PAIR, VAEX, Case
from vaex.benchmarks.memory import peak_bytes
from vaex.benchmarks.peers import PEERS, captum_loop, floor_forward, plain_loop
from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Spread, Timing, clock_of, interleaved, one_thread, quartiles
from vaex.build import build_model, build_objective
from vaex.networks import VAE

MEBI = 2**20
SPARE_MEMORY = 64 * MEBI
"""Bytes that the maps may take beyond the forward pass and their own size."""


@dataclass(frozen=True)
class Row:
    """What was measured of one contestant.

    ``peak`` is the call's peak memory above the level before, ``beyond`` what of it exceeds the floor's peak, both in
    bytes; ``error`` is the largest difference from the plain loop's maps over their maximum. None: not measured.
    """

    name: str
    seconds: Spread
    ratio: Spread
    calls: int
    goal: float | None = None
    peak: int | None = None
    beyond: int | None = None
    error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class CaseResult:
    """The rows of a case, the floor first, and the bytes of its maps (0 where it makes none)."""

    title: str
    rows: tuple[Row, ...]
    maps: int


def _images(case: Case, device: str) -> Tensor:
    shape = (case.batch, *case.network["shape"])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _seeded(case: Case, device: str) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(case.network).to(device)


def map_contestants(case: Case, device: str) -> tuple[list[Contestant], list[str]]:
    """Return floor, vaex and its peers, and a sentence for each peer that is not installed."""
    vae, images = _seeded(case, device).eval(), _images(case, device)
    makers: dict[str, Callable[..., Any]] = {VAEX: latent_attention, **PEERS}
    absent = []
    if importlib.util.find_spec("captum") is None:
        makers = {name: maker for name, maker in makers.items() if maker is not captum_loop}
        absent.append("captum is not installed, so it is not measured.")

    def call(maker: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: maker(vae, images, case.layer)

    floor = Contestant("floor: the encoder, without graph", lambda: floor_forward(vae, images))
    return [floor, *(Contestant(name, call(maker)) for name, maker in makers.items())], absent


class TrainingStep:
    """One step of a network of its own at every call; ``attention`` are options of the attention term, none for off."""

    def __init__(self, case: Case, device: str, **attention: Any) -> None:
        self.images = _images(case, device)
        self.vae = _seeded(case, device).train()
        options = {"attention": {"layer": case.layer, **attention}} if attention else {}
        self.objective = build_objective({"name": "beta_vae", **options}, self.vae)
        self.optimiser = torch.optim.Adam(self.vae.parameters(), lr=1e-4)
        self.number = 0

    def __call__(self) -> None:
        """Forward, backward, update."""
        self.optimiser.zero_grad()
        output = self.vae(self.images, keep=self.objective.keep, sample=True)
        self.objective(self.images, output, self.number).total.backward()
        self.optimiser.step()
        self.number += 1


def step_contestants(case: Case, device: str) -> list[Contestant]:
    """Return training steps: plain, with all pairs, with a random pair."""
    return [
        Contestant("floor: the plain step", TrainingStep(case, device)),
        Contestant(ALL_PAIRS, TrainingStep(case, device, weight=1.0, pairs="all")),
        Contestant(RANDOM_PAIR, TrainingStep(case, device, weight=1.0, pairs="random")),
    ]


def _errors(contestants: Iterable[Contestant], timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return each one's largest difference from the plain loop's maps, over their maximum."""
    reference = next(one.call() for one in contestants if one.name in PEERS and PEERS[one.name] is plain_loop)
    most = float(reference.abs().max())
    return {
        one.name: float((one.call() - reference).abs().max()) / most if most else math.nan
        for one in contestants
        if (one.name == VAEX or one.name in PEERS) and not timings[one.name].once
    }


def run_case(case: Case, rounds: int, budget: float, device: str = "cpu") -> CaseResult:
    """Measure one case: time in one thread, interleaved; then memory and error of what keeps within ``budget`` s.

    Raises:
        VaexError: for a device that is not measured, or fewer than one round.
    """
    clock = clock_of(device)
    with one_thread():
        absent: list[str] = []
        if case.training:
            contestants = step_contestants(case, device)
        else:
            contestants, absent = map_contestants(case, device)
        timings = interleaved(contestants, rounds, clock, budget)
        floor = contestants[0].name
        kept = [one for one in contestants if one.name == floor or not timings[one.name].once]
        peaks = {one.name: peak_bytes(one.call, device) for one in kept}
        errors = {} if case.training else _errors(contestants, timings)
    rows = tuple(
        Row(
            one.name,
            quartiles(timings[one.name].seconds),
            quartiles(timings[one.name].ratios),
            len(timings[one.name].seconds),
            case.goals.get(one.name),
            peaks.get(one.name),
            peaks[one.name] - peaks[floor] if one.name in peaks else None,
            errors.get(one.name),
            f"one cold call, over the budget of {budget:g} s" if timings[one.name].once else "",
        )
        for one in contestants
    )
    pixels = math.prod(case.network["shape"][1:])
    maps = 0 if case.training else 4 * case.batch * case.network["latents"] * pixels
    return CaseResult(" ".join([case.title + ".", *absent]), rows, maps)


def case_table(name: str, result: CaseResult) -> Table:
    """Return one case as a table: ms, ratio to the floor with quartiles, goal, memory in MiB, error."""

    def mebi(value: int | None) -> str:
        return "-" if value is None else f"{value / MEBI:.1f}"

    def line(row: Row) -> Iterator[str]:
        yield row.name + (f" ({row.note})" if row.note else "")
        yield f"{1e3 * row.seconds.median:.1f}"
        yield f"{row.ratio.median:.2f}"
        yield "-" if row.calls == 1 else f"{row.ratio.low:.2f}-{row.ratio.high:.2f}"
        met = row.goal is not None and row.ratio.median <= row.goal
        yield "-" if row.goal is None else f"<= {row.goal:g} {'met' if met else 'MISSED'}"
        yield mebi(row.peak)
        yield mebi(row.beyond)
        yield "-" if row.error is None else f"{row.error:.0e}"

    notes = [result.title]
    if result.maps:
        own = next(row for row in result.rows if row.name == VAEX)
        allowed = result.maps + SPARE_MEMORY
        told = "was not measured" if own.beyond is None else "met" if own.beyond <= allowed else "MISSED"
        notes.append(
            f"The maps are {result.maps / MEBI:.1f} MiB; beyond the floor's peak vaex may take them and "
            f"{SPARE_MEMORY / MEBI:g} MiB more, {allowed / MEBI:.1f} MiB: {told}."
        )
    columns = ("", "ms", "x floor", "quartiles", "goal", "peak MiB", "beyond floor", "error")
    return Table(name, columns, tuple(tuple(line(row)) for row in result.rows), tuple(notes))


def case_content(result: CaseResult) -> dict[str, Any]:
    """Return one case as plain values for JSON; seconds, bytes, ratios."""
    rows = {
        row.name: {
            "seconds": row.seconds._asdict(),
            "ratio": row.ratio._asdict(),
            "calls": row.calls,
            "goal": row.goal,
            "peak_bytes": row.peak,
            "beyond_floor_bytes": row.beyond,
            "error": row.error,
            "note": row.note,
        }
        for row in result.rows
    }
    return {"title": result.title, "maps_bytes": result.maps, "contestants": rows}
