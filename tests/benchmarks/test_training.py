"""The contestants of `vaex bench what=train` do what they are named for, and the table tells what they took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vaex.benchmarks import training
from vaex.benchmarks.steps import FLOOR, HandWritten, Products, Reproductions
from vaex.benchmarks.timing import Timing
from vaex.benchmarks.training import ATTENTION, HAND, PEER, VAEX, LightningSteps, Result, built, training_tables
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
    steps = {FLOOR: timing(1.0), PEER: timing(peer), HAND: timing(hand), VAEX: timing(2.0)}
    attention = {VAEX: timing(2.0, floor=2.0), **{name: timing(3.4, floor=2.0) for name in ATTENTION}}
    first, second = training_tables(Result(steps, attention, 64))
    assert first.notes[1].endswith(f"goal >= 1.2: {word}.")
    assert f"{peer / 2:.2f}" in first.notes[1]
    assert first.notes[2].endswith(f"goal <= 1.05: {other}.")
    assert [row[-1].rpartition(" ")[2] for row in second.rows] == ["-", "MISSED", "MISSED", "met"]
    assert second.rows[1][2] == "1.70"
    assert (
        training.training_content(Result(steps, attention, 64))["times_faster_than_reproductions"]["median"] == peer / 2
    )
