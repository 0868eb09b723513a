"""The contestants of `vaex bench what=train` do what they are named for, and the table tells what they took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vaex.benchmarks import training, units
from vaex.benchmarks.lightning_steps import LightningSteps, built
from vaex.benchmarks.steps import FLOOR, HandWritten, Products, Reproductions
from vaex.benchmarks.timing import Timing
from vaex.benchmarks.training import (
    ATTENTION,
    HAND,
    PEER,
    PEER_BF16,
    VAEX,
    VAEX_BF16,
    VAEX_LAST,
    Result,
    run_training,
    training_tables,
)
from vaex.errors import VaexError
from vaex.modules import FactorVAEModule


def images(count: int = 8) -> Tensor:
    return (torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.9).float()


def multiplications(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def test_floor_has_the_products_of_the_step_and_no_others() -> None:
    module = built()
    floor, step = Products(module, images()), HandWritten(module, images())
    assert multiplications(floor) == multiplications(step)


def test_reproductions_loop_does_more() -> None:
    module = built()
    assert multiplications(Reproductions(module, images())) > 1.2 * multiplications(HandWritten(module, images()))


@pytest.mark.parametrize("kind", [Reproductions, HandWritten])
def test_written_loops_train_both_networks(kind: Callable[[FactorVAEModule, Tensor], Callable[[], None]]) -> None:
    module = built()
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    step = kind(module, images())
    for _ in range(2):
        step()
    for name, value in module.named_parameters():
        assert 0 < (value - start[name]).abs().max() <= 4e-4  # steps of Adam at a rate of 1e-4


def test_every_call_is_one_step_of_lightning(tmp_path: Path) -> None:
    steps = LightningSteps(built(), images(), tmp_path)
    try:
        for number in range(3):
            assert steps.trainer.global_step == number
            steps()
        assert steps.trainer.global_step == 3
    finally:
        steps.close()


def test_an_error_of_the_training_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"failed: .*even number"):
        LightningSteps(built(), images(5), tmp_path)()


def timing(*seconds: float, floor: float = 1.0) -> Timing:
    return Timing(seconds, tuple(value / floor for value in seconds))


@pytest.mark.parametrize(("peer", "word"), [(2.4, "met"), (2.3, "MISSED")])
@pytest.mark.parametrize(("hand", "other"), [(1.91, "met"), (1.9, "MISSED")])
def test_tables_judge_the_goals(peer: float, word: str, hand: float, other: str) -> None:
    steps = {FLOOR: timing(1.0), PEER: timing(peer), HAND: timing(hand), VAEX: timing(2.0), VAEX_LAST: timing(1.6)}
    attention = {VAEX: timing(2.0, floor=2.0), **{name: timing(3.4, floor=2.0) for name in ATTENTION}}
    bf16 = {name: timing(1.0) for name in (PEER, PEER_BF16, VAEX_BF16)}
    result = Result(steps, attention, bf16, True, 64)
    first, second, _ = training_tables(result)
    assert first.notes[1].endswith(f"goal >= 1.2: {word}.")
    assert f"{peer / 2:.2f}" in first.notes[1]
    assert first.notes[2].endswith(f"goal <= 1.05: {other}.")
    assert "is 1.25 (1.25-1.25) times as fast as without" in first.notes[3]
    assert [row[-1].rpartition(" ")[2] for row in second.rows] == ["-", "MISSED", "MISSED", "met"]
    assert second.rows[1][2] == "1.70"
    content = training.training_content(result)
    assert content["times_faster_than_reproductions"]["median"] == peer / 2
    assert content["times_hand_written"]["median"] == 2.0 / hand
    assert content["times_faster_by_channels_last"]["median"] == 1.25


@pytest.mark.parametrize(
    ("own", "has", "verdict"),
    [
        (1.2, True, "goal >= 2: met;"),
        (1.3, True, "goal >= 2: MISSED;"),
        (1.2, False, "goal >= 2: not judged: this CPU has no bf16 units;"),
    ],
)
def test_the_goal_in_bf16_is_judged_where_there_are_units(own: float, has: bool, verdict: str) -> None:
    steps = {name: timing(1.0) for name in (FLOOR, PEER, HAND, VAEX, VAEX_LAST)}
    attention = {name: timing(1.0) for name in (VAEX, *ATTENTION)}
    bf16 = {PEER: timing(2.4, floor=2.4), PEER_BF16: timing(1.8, floor=2.4), VAEX_BF16: timing(own, floor=2.4)}
    bf16[PEER_BF16] = bf16[PEER_BF16]._replace(once=not has)
    table = training_tables(Result(steps, attention, bf16, has, 64))[2]
    assert verdict in table.notes[1]
    assert f"is {2.4 / own:.2f} (" in table.notes[1]
    assert table.notes[1].endswith(f"{1.8 / own:.2f} times as fast as that loop in bf16.")
    assert ("cold" in table.notes[0]) is not has


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags : fpu amx_bf16\nflags : fpu\n", True),
        ("Features : fp asimd bf16 i8mm\n", True),
        ("flags : fpu avx512f avx512_bf16x\n", False),
        ("model name : bf16\n", False),
        (None, False),
    ],
)
def test_bf16_units_are_those_that_the_system_states(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(units, "CPUINFO", tmp_path / "cpuinfo")
    assert units.has_bf16("cpu") is expected


def test_bf16_is_computed_in_bf16_and_channels_last(tmp_path: Path) -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    def note(layer: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append((out.dtype, given[0].is_contiguous(memory_format=torch.channels_last)))

    modules = [built(channels_last=True) for _ in range(2)]
    for module in modules:
        conv = next(layer for layer in module.vae.modules() if isinstance(layer, torch.nn.Conv2d))
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
        conv.register_forward_hook(note)
    Reproductions(modules[0], images(4), bf16=True)()
    steps = LightningSteps(modules[1], images(4), tmp_path, "bf16-mixed")
    try:
        steps()
        steps()
    finally:
        steps.close()
    assert len(seen) >= 4
    assert set(seen) == {(torch.bfloat16, True)}


@pytest.mark.slow
def test_without_units_bf16_is_a_single_cold_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr(training, "has_bf16", lambda device: False)
    monkeypatch.setattr(training, "ATTENTION", {})
    real = Reproductions.__call__

    def counted(self: Reproductions) -> None:
        calls.append(self.bf16)
        real(self)

    monkeypatch.setattr(Reproductions, "__call__", counted)
    result = run_training(2, 1)
    assert sum(calls) == 1
    assert [one.once for one in result.bf16.values()] == [False, True, True]
    assert [len(one.seconds) for one in result.steps.values()] == [1] * 5
    assert "not judged" in training_tables(result)[2].notes[1]
