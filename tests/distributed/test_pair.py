"""Two processes train and measure as one does on all images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.cases import CASES, gradients
from tests.pairs import results, run_pair


def _pair(rank: int, folder: str) -> None:
    found: dict[str, Any] = {"gradients": {name: gradients(case, 2, Path(folder)) for name, case in CASES.items()}}
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("pair")
    run_pair(_pair, str(folder))
    return results(folder)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_one_process_with_the_joint_batch(name: str, pair: list[Any], tmp_path: Path) -> None:
    expected = gradients(CASES[name], 1, tmp_path)
    assert len(expected) == 2
    for rank in range(2):
        found = pair[rank]["gradients"][name]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            largest = max(float(gradient.abs().max()) for gradient in theirs)
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest, msg=lambda m: f"{name}: {m}")
