"""Cases, goals and what becomes of the measurements."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vaex.attention import latent_attention
from vaex.benchmarks import attention
from vaex.benchmarks.attention import (
    MEBI,
    CaseResult,
    Row,
    TrainingStep,
    case_content,
    case_table,
    run_case,
    step_contestants,
)
from vaex.benchmarks.cases import ALL_PAIRS, CASES, RANDOM_PAIR, VAEX, Case, chosen_cases
from vaex.benchmarks.peers import PEERS
from vaex.benchmarks.timing import Spread
from vaex.build import NETWORKS
from vaex.errors import VaexError

SMALL: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8}
TINY = Case("tiny", SMALL, "conv2", 2, {VAEX: 1e9})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cases_name_known_networks_and_contestants(case: Case) -> None:
    assert case.network["name"] in NETWORKS
    assert set(case.goals) <= ({ALL_PAIRS, RANDOM_PAIR} if case.training else {VAEX, *PEERS})
    assert case.goals


def test_chosen_cases() -> None:
    assert list(chosen_cases(None)) == list(CASES)
    assert list(chosen_cases(["ad_loss_conv1", "mnist_conv2"])) == ["ad_loss_conv1", "mnist_conv2"]
    with pytest.raises(VaexError, match="did you mean 'mnist_conv2'"):
        chosen_cases(["mnist_conv1"])


def test_all_ways_to_the_maps_are_measured_and_agree() -> None:
    pytest.importorskip("captum")
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    result = run_case(TINY, rounds=1, budget=60.0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    floor, *others = result.rows
    assert [row.name for row in others] == [VAEX, *PEERS]
    assert list(floor.ratio) == [1, 1, 1]
    assert floor.beyond == 0
    assert result.maps == 2 * 3 * 32 * 32 * 4
    for row in others:
        assert row.error is not None
        assert row.error <= 1e-5
        assert row.seconds.median > 0
        assert row.peak is not None
        assert row.peak >= result.maps
        assert floor.peak is not None
        assert row.beyond == row.peak - floor.peak


def test_error_is_the_largest_difference_over_the_loops_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> torch.Tensor:
        maps = latent_attention(*arguments)
        maps[1, 2, 3, 4] += 0.25 * maps.max()
        return maps

    monkeypatch.setattr(attention, "latent_attention", wrong)
    rows = {row.name: row for row in run_case(TINY, rounds=1, budget=60.0).rows}
    assert rows[VAEX].error == pytest.approx(0.25, abs=1e-5)


def test_what_is_over_the_budget_is_run_once_and_says_so() -> None:
    result = run_case(TINY, rounds=2, budget=1e-9)
    assert [row.calls for row in result.rows] == [2] + [1] * (len(result.rows) - 1)
    assert all("over the budget" in row.note and row.peak is None for row in result.rows[1:])
    assert any("was not measured" in note for note in case_table("tiny", result).notes)


def test_training_steps_move_their_own_weights_by_their_own_loss() -> None:
    case = Case("tiny", SMALL, "conv2", 2, training=True)
    result = run_case(case, rounds=1, budget=60.0)
    assert [row.name for row in result.rows[1:]] == [ALL_PAIRS, RANDOM_PAIR]
    assert all(row.error is None for row in result.rows)
    assert result.maps == 0
    steps = {one.name: one.call for one in step_contestants(case, "cpu")}
    before, gradients = {}, {}
    for name, step in steps.items():
        assert isinstance(step, TrainingStep)
        weight: torch.Tensor = step.vae.get_parameter("encoder.conv1.weight")
        before[name] = weight.detach().clone()
        torch.manual_seed(0)
        step()
        assert not torch.equal(weight, before[name])
        assert weight.grad is not None
        gradients[name] = weight.grad.clone()
    plain, every, pair = gradients.values()
    assert torch.equal(before[ALL_PAIRS], before[RANDOM_PAIR])  # same beginning
    assert not torch.allclose(plain, every, rtol=1e-6)
    assert not torch.allclose(every, pair, rtol=1e-6)


def _row(name: str, ratio: float, **more: Any) -> Row:
    return Row(name, Spread(0.001, 0.002, 0.003), Spread(ratio - 0.5, ratio, ratio + 0.5), 5, **more)


@pytest.mark.parametrize(("ratio", "word"), [(2.7, "met"), (2.71, "MISSED")])
@pytest.mark.parametrize(("beyond", "memory"), [(65 * MEBI, "met"), (65 * MEBI + 1, "MISSED")])
def test_table(ratio: float, word: str, beyond: int, memory: str) -> None:
    own = _row(VAEX, ratio, goal=2.7, peak=80 * MEBI, beyond=beyond, error=1.234e-7)
    result = CaseResult("A case.", (_row("floor", 1.0, peak=MEBI // 2, beyond=0), own), MEBI)
    table = case_table("name", result)
    assert table.rows[0] == ("floor", "2.0", "1.00", "0.50-1.50", "-", "0.5", "0.0", "-")
    assert table.rows[1][:6] == (
        VAEX,
        "2.0",
        f"{ratio:.2f}",
        f"{ratio - 0.5:.2f}-{ratio + 0.5:.2f}",
        f"<= 2.7 {word}",
        "80.0",
    )
    assert table.rows[1][7] == "1e-07"
    assert table.notes[1].endswith(f"65.0 MiB: {memory}.")
    plain = case_content(result)["contestants"][VAEX]
    assert plain["ratio"]["median"] == ratio
    assert plain["beyond_floor_bytes"] == beyond
    assert math.isclose(plain["seconds"]["high"], 0.003)
