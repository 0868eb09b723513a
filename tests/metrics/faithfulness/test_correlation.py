"""Correlations against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from vaex.metrics.faithfulness.correlation import pearson, ranks, spearman


def test_pearson_and_spearman_are_scipys_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 5, (2, 3, 30), generator=generator).double()
    b = a + torch.randint(0, 6, (2, 3, 30), generator=generator)
    for i in range(2):
        for j in range(3):
            x, y = a[i, j].numpy(), b[i, j].numpy()
            assert float(pearson(a, b)[i, j]) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
            assert float(spearman(a, b)[i, j]) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
            assert ranks(a)[i, j].tolist() == (stats.rankdata(x) - 1).tolist()


def test_constants() -> None:
    flat, steps = torch.full((1, 6), 0.1), torch.arange(6.0)[None]
    assert pearson(flat, steps).tolist() == spearman(flat, steps).tolist() == [0.0]
    assert bool(pearson(steps, flat).isnan().all())
    assert bool(spearman(steps, flat).isnan().all())


def test_tiny_numbers_keep_their_correlation() -> None:
    a = torch.tensor([[1e-30, 2e-30, 4e-30]])
    assert float(pearson(a, a * 1e-7)) == pytest.approx(1.0)
