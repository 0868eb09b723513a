"""Relevance rank against sorting in a loop, ties by every order there is."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness import relevance_rank


def test_counts_top_pixels_in_the_mask(maps: Tensor) -> None:
    masks = (torch.rand(3, 2, 6, 5, generator=torch.Generator().manual_seed(4)) > 0.6).float()
    found = relevance_rank(maps, masks)
    for b in range(3):
        for t in range(2):
            truth = {i for i, inside in enumerate(masks[b, t].flatten().tolist()) if inside}
            size = maps[b, t].abs().flatten().tolist()
            top = sorted(range(30), key=lambda i: -size[i])[: len(truth)]
            assert float(found[b, t]) == pytest.approx(len(truth & set(top)) / len(truth))
    torch.testing.assert_close(relevance_rank(maps, masks[:, :1])[:, 0], found[:, 0])


def test_ties_count_as_the_mean_over_all_orders() -> None:
    values, mask = [2.0, 1.0, 1.0, 1.0, 0.0, 0.0], [0, 1, 1, 0, 0, 1]
    hits = []
    for order in permutations(range(6)):
        top = sorted(order, key=lambda i: -values[i])[:3]
        hits.append(sum(mask[i] for i in top) / 3)
    found = relevance_rank(torch.tensor(values).view(1, 1, 2, 3), torch.tensor(mask).float().view(1, 1, 2, 3))
    assert found.item() == pytest.approx(sum(hits) / len(hits))


def test_edges() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    assert bool(relevance_rank(torch.rand(1, 1, 4, 4), mask).isnan())
    mask[..., :2, :2] = 1
    assert relevance_rank(torch.ones(1, 1, 4, 4), mask).item() == pytest.approx(4 / 16)  # chance
    assert relevance_rank(-mask, mask).item() == 1.0  # evidence against is evidence
    with pytest.raises(VaexError, match="Masks must fit"):
        relevance_rank(torch.rand(2, 3, 4, 4), torch.zeros(2, 2, 4, 4))
