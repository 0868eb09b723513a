"""Metrics of several processes are those of all images: exact, compressed, and both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pairs import run_pair
from vaex.metrics import LocalizationMetrics

Shown = tuple[Tensor, Tensor, Tensor, list[str]]
LEVELS = 16
"""Distinct scores: so few that a sketch keeps each by itself, and merging must be exact there too."""


def _images() -> Shown:
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(8, 1, 14, 11, generator=generator) > 0.8).float()
    masks[[1, 4, 6]] = 0
    maps = (torch.rand(masks.shape, generator=generator) + masks / 2).mul(LEVELS).round()
    groups = ["cut", "good", "bent", "cut", "good", "rust", "good", "bent"]
    return maps, masks, torch.randn(8, generator=generator), groups


def _update(metric: LocalizationMetrics, chosen: list[int]) -> None:
    maps, masks, scores, groups = _images()
    metric.update(maps[chosen], masks[chosen], scores[chosen], [groups[b] for b in chosen])


def _expected() -> dict[str, float]:
    metric = LocalizationMetrics()
    _update(metric, list(range(8)))
    return _floats(metric.compute())


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


SHARES = [[[0, 1, 2], [3, 4, 5, 6, 7]], [[], list(range(8))], [[5], [0, 1, 2, 3, 4, 6, 7]]]
"""Which images each of two processes sees: unevenly many, none, and another group each."""
EXACT = [(10**6, 10**6), (10**6, 200), (200, 200)]
"""Pixels that each of two processes keeps: all, or no more than an image."""


def _one_process(rank: int, folder: str) -> None:
    results = []
    for exact in EXACT:
        metric = LocalizationMetrics(exact_pixels=exact[rank])
        for shares in SHARES:
            for b in shares[rank]:
                _update(metric, [b])
            results.append(metric.compute())
            assert metric.images == len(shares[rank])  # each process has its own images again
            assert sum(map(len, metric.image_scores)) == len(shares[rank])
            metric.reset()
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_merge(tmp_path: Path) -> None:
    run_pair(_one_process, str(tmp_path))
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert len(results) == len(EXACT) * len(SHARES)
        for result in results:
            assert _floats(result) == pytest.approx(_expected(), abs=1e-6)


@pytest.mark.parametrize("exact", EXACT)
@pytest.mark.parametrize("shares", SHARES)
def test_merge_state(exact: tuple[int, int], shares: list[list[int]]) -> None:
    one, other = (LocalizationMetrics(exact_pixels=pixels) for pixels in exact)
    for metric, chosen in zip((one, other), shares, strict=True):
        for b in chosen:
            _update(metric, [b])
    other.merge_state(one)
    assert other.images == 8
    assert other.pending <= exact[1]
    assert _floats(other.compute()) == pytest.approx(_expected(), abs=1e-6)
    assert one.images == len(shares[0])
