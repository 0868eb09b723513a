"""Optimisers by hand-computed first steps, schedules by closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from vaex.errors import VaexError
from vaex.modules.optimisation import build_optimiser, build_schedule, constant, cosine, exponential, one_cycle


def weight(value: float = 2.0, gradient: float = 3.0) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor([value]))
    parameter.grad = torch.tensor([gradient])
    return parameter


def rates(config: dict[str, Any], total: int, count: int) -> list[float]:
    """Learning rates that the steps 0 ... count - 1 are made with."""
    optimiser = torch.optim.SGD([weight()], lr=0.5)
    schedule = build_schedule(optimiser, config, lambda: total)
    found = []
    for _ in range(count):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


# Optimisers


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Adam's first step is lr in the direction of the gradient, whatever its size
        ({"name": "adam", "lr": 0.1}, 2 - 0.1),
        # its decay enters the gradient, AdamW's shrinks the weight by lr * decay
        ({"name": "adam", "lr": 0.1, "weight_decay": 0.5}, 2 - 0.1),
        ({"name": "adamw", "lr": 0.1, "weight_decay": 0.5}, 2 * (1 - 0.05) - 0.1),
        ({"name": "adamw", "lr": 0.1}, 2 * (1 - 0.1 * 0.01) - 0.1),
        ({"name": "sgd", "lr": 0.1}, 2 - 0.3),
        ({"name": "sgd", "lr": 0.1, "weight_decay": 0.5}, 2 - 0.1 * (3 + 0.5 * 2)),
    ],
)
def test_first_step(config: dict[str, Any], expected: float) -> None:
    parameter = weight()
    build_optimiser([parameter], config).step()
    assert parameter.item() == pytest.approx(expected, rel=1e-6)


def test_options_reach_the_optimiser() -> None:
    adam = build_optimiser([weight()], {"name": "adam", "betas": [0.5, 0.9], "eps": 1e-4})
    assert adam.param_groups[0]["betas"] == (0.5, 0.9)
    assert adam.param_groups[0]["eps"] == 1e-4
    assert adam.param_groups[0]["lr"] == 1e-3
    sgd = build_optimiser([weight()], {"name": "sgd", "momentum": 0.3})
    assert sgd.param_groups[0]["momentum"] == 0.3
    assert build_optimiser([weight()], {"name": "sgd"}).param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adm"}, "Unknown optimiser 'adm': did you mean 'adam'"),
        (
            {"name": "adam", "learning_rate": 1.0},
            "optimiser 'adam' has no option 'learning_rate': .*it takes lr, betas",
        ),
        ({"name": "adam", "momentum": 1.0}, "optimiser 'adam' has no option 'momentum'"),
        ({"name": "adam", "parameters": []}, "optimiser 'adam' has no option 'parameters'"),
        ({"name": "adam", "lr": "fast"}, "optimiser 'adam' needs a number for the option 'lr', got 'fast'"),
        ({"name": "adam", "lr": 0.0}, r"optim\.lr must be positive, got 0\.0"),
        ({"name": "adam", "lr": math.inf}, r"optim\.lr must be positive, got inf"),
        ({"name": "sgd", "lr": -1.0}, "optimiser 'sgd' does not take these values: Invalid learning rate: -1.0"),
        ({"name": "adam", "betas": [0.9, 1.5]}, "optimiser 'adam' does not take these values: Invalid beta"),
        ({"name": "adam", "betas": [0.9]}, "optimiser 'adam' does not take these values"),
        ({"name": "adam", "betas": 0.9}, "optimiser 'adam' does not take these values"),
    ],
)
def test_bad_optimisers_are_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_optimiser([weight()], config)


# Schedules


def test_constant_rises_and_stays() -> None:
    assert rates({"name": "constant"}, 10, 4) == [0.5] * 4
    assert rates({"name": "constant", "warmup_steps": 3}, 10, 6) == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_cosine_rises_and_falls_along_half_a_cosine() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    assert [cosine(step, 8) for step in range(9)] == pytest.approx(expected)
    assert [cosine(s, 10, warmup_steps=2) for s in range(11)] == pytest.approx([1 / 3, 2 / 3, *expected])
    assert [cosine(s, 8, final=0.2) for s in range(9)] == pytest.approx([0.2 + 0.8 * e for e in expected])
    assert cosine(4, 8) == pytest.approx(0.5)
    assert cosine(99, 8, final=0.2) == pytest.approx(0.2)
    assert rates({"name": "cosine"}, 8, 9) == pytest.approx([0.5 * e for e in expected])


def test_exponential_falls_to_its_rate_from_the_end_of_the_rise() -> None:
    assert [exponential(step, 4, rate=0.0625) for step in range(6)] == pytest.approx(
        [1, 0.5, 0.25, 0.125, 0.0625, 0.0625]
    )
    risen = [exponential(step, 5, rate=0.0625, warmup_steps=1) for step in range(6)]
    assert risen == pytest.approx([0.5, 1, 0.5, 0.25, 0.125, 0.0625])
    assert exponential(10, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(("total", "rise"), [(40, 0.3), (300, 0.3), (50, 0.5), (11, 0.1)])
def test_one_cycle_is_that_of_torch(total: int, rise: float) -> None:
    optimiser = torch.optim.SGD([weight()], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.5, total_steps=total, pct_start=rise, cycle_momentum=False
    )
    expected = []
    for _ in range(total):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step() if len(expected) < total else None
    assert rates({"name": "one_cycle", "rise": rise}, total, total) == pytest.approx(expected, rel=1e-6)


def test_one_cycle_at_its_edges() -> None:
    assert one_cycle(0, 1, start=0.1) == 0.1  # as the first step of any run
    assert one_cycle(0, 1, rise=0.0) == 1.0
    assert [one_cycle(step, 5, rise=0.0, final=0.0) for step in range(5)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5)]
    )
    assert one_cycle(99, 10, final=0.25) == pytest.approx(0.25)  # behind the end


@pytest.mark.parametrize("schedule", [constant, cosine, exponential])
def test_the_rise_meets_the_fall_without_a_jump(schedule: Any) -> None:
    values = [schedule(step, 200, warmup_steps=50) for step in range(201)]
    assert values[:51] == pytest.approx([(step + 1) / 51 for step in range(51)])
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.03


@pytest.mark.parametrize("schedule", [cosine, exponential])
def test_a_run_shorter_than_its_rise_stays_finite(schedule: Any) -> None:
    assert all(0 <= schedule(step, 5, warmup_steps=10) <= 1 for step in range(20))


def test_the_number_of_steps_is_not_asked_for_before_the_second() -> None:
    """Lightning makes the training loader to count it, which at the first would be before a resume is restored."""
    asked = []

    def total() -> int:
        asked.append(True)
        return 10

    optimiser = torch.optim.SGD([weight()], lr=0.5)
    schedule = build_schedule(optimiser, {"name": "cosine", "warmup_steps": 2}, total)
    assert not asked
    optimiser.step()
    schedule.step()
    assert asked


def test_a_schedule_continues_from_its_state() -> None:
    config = {"name": "cosine", "warmup_steps": 2, "final": 0.1}
    whole = rates(config, 12, 12)
    optimiser = torch.optim.SGD([weight()], lr=0.5)
    schedule = build_schedule(optimiser, config, lambda: 12)
    for _ in range(5):
        optimiser.step()
        schedule.step()
    again = torch.optim.SGD([weight()], lr=0.5)
    continued = build_schedule(again, config, lambda: 12)
    again.load_state_dict(optimiser.state_dict())
    continued.load_state_dict(schedule.state_dict())
    found = []
    for _ in range(7):
        found.append(again.param_groups[0]["lr"])
        again.step()
        continued.step()
    assert found == whole[5:]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cosin"}, "Unknown schedule 'cosin': did you mean 'cosine'"),
        ({"name": "cosine", "warmup": 3}, "schedule 'cosine' has no option 'warmup': did you mean 'warmup_steps'"),
        ({"name": "cosine", "step": 3}, "schedule 'cosine' has no option 'step'"),
        ({"name": "cosine", "total": 3}, "schedule 'cosine' has no option 'total'"),
        ({"name": "cosine", "warmup_steps": 1.5}, "needs a whole number for the option 'warmup_steps', got 1.5"),
        ({"name": "cosine", "final": -0.1}, r"schedule\.final must be 0 or more, got -0\.1"),
        ({"name": "one_cycle", "rise": 1.0}, r"schedule\.rise is a share of the run and must be below 1, got 1\.0"),
        ({"name": "one_cycle", "start": -0.1}, r"schedule\.start must be 0 or more, got -0\.1"),
        ({"name": "constant", "warmup_steps": -1}, r"schedule\.warmup_steps must be 0 or more, got -1"),
        ({"name": "exponential", "rate": 0.0}, r"schedule\.rate must be positive, got 0\.0"),
    ],
)
def test_bad_schedules_are_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_schedule(torch.optim.SGD([weight()], lr=0.5), config, lambda: 10)
