"""Peak memory of calls whose allocations are known to the byte."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from vaex.benchmarks.memory import peak_bytes

MEBI = 2**20


def test_peak_is_the_largest_sum_of_tensors_alive_at_once() -> None:
    kept = torch.ones(5 * MEBI // 4)  # before the call: not counted

    def call() -> Tensor:
        first = torch.empty(4 * MEBI // 4)  # 4
        second = first + 1  # 4 + 4
        del first  # 4
        third = torch.empty(3 * MEBI // 4)  # 4 + 3
        del second  # 3
        return torch.cat([third, torch.empty(MEBI // 4)])  # 3 + 1 + 4

    assert 8 * MEBI <= peak_bytes(call) <= 8 * MEBI + 1024  # and the scalar that is added
    assert kept.numel() == 5 * MEBI // 4


def test_the_result_counts_and_temporaries_that_are_gone_do_not_add_up() -> None:
    def call() -> Tensor:
        for _ in range(3):
            torch.empty(2 * MEBI // 4)
        return torch.empty(MEBI // 4)

    assert peak_bytes(call) == 2 * MEBI
    assert peak_bytes(lambda: torch.empty(6 * MEBI // 4)) == 6 * MEBI


def test_a_call_that_replaces_what_its_last_one_left_needs_no_more_than_the_difference() -> None:
    """As a training step does with its gradients: the level before includes those of the step before."""
    state: list[Tensor] = []

    def call() -> None:
        state.clear()
        state.append(torch.empty(4 * MEBI // 4))
        torch.empty(MEBI // 4)

    assert peak_bytes(call) == MEBI


def test_errors_come_through_and_stderr_is_back(capfd: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        peak_bytes(call)
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"
