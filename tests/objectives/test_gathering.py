"""Tests of codes gathered over processes: two of them have the gradient of one with the joint batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.pairs import run_pair
from vaex.objectives.gathering import gathered, processes
from vaex.objectives.terms import AFTER_TRAINING


def network() -> torch.nn.Linear:
    torch.manual_seed(3)
    return torch.nn.Linear(5, 3).double()


def images() -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def coupled(codes: Tensor) -> Tensor:
    """A term that no sum over images gives: the squared covariances of the codes (B, D)."""
    centred = codes - codes.mean(0)
    return (centred.T @ centred / len(codes)).square().sum()


def test_one_process_keeps_its_codes() -> None:
    codes = torch.randn(4, 2)
    assert processes() == 1
    assert gathered(codes) is codes


def _rank(rank: int, folder: str) -> None:
    model = DistributedDataParallel(network())
    codes = model(images()[rank::2])
    everything = gathered(codes)
    value = coupled(everything)
    value.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    own = gathered(codes, AFTER_TRAINING) is codes
    torch.save(
        {"value": value.detach(), "gradients": gradients, "own": own, "codes": everything.detach()},
        f"{folder}/{rank}.pt",
    )


@pytest.mark.slow
def test_two_processes_have_value_and_gradient_of_the_joint_batch(tmp_path: Path) -> None:
    run_pair(_rank, str(tmp_path))
    model = network()
    codes = model(images())
    value = coupled(codes)
    value.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["own"]
        torch.testing.assert_close(found["codes"], codes.detach())
        torch.testing.assert_close(found["value"], value.detach())
        for gradient, parameter in zip(found["gradients"], model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)
