"""Which kind of defect do groups of latents name, and what does that have in common with the kinds that were told?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

DRAWS = 999
"""Orders that are drawn for a p-value."""


def named_kinds(energies: Tensor, masks: Tensor) -> Tensor:
    """Return the group (B,) of the largest energy inside the mask, its cells weighted by how much of them is inside.

    ``energies`` (B, G, h, w) are those of groups of latents at each cell, ``masks`` (B, 1, H, W) of 0 and 1.
    """
    share = F.adaptive_avg_pool2d(masks.to(energies), (energies.shape[-2], energies.shape[-1]))
    named: Tensor = (energies * share).sum((-2, -1)).argmax(1)
    return named


class Association(NamedTuple):
    """Mutual information in nats of two lists of classes, and its p-value."""

    nats: float
    p_value: float


def association(first: Tensor, second: Tensor, seed: int = 0) -> Association:
    """Return the mutual information of classes ``first`` and ``second`` (N,), beside those of `DRAWS` random orders.

    The p-value is the share of orders that have as much, with the one that was found among them.

    Source: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005, for the test.
    """
    from sklearn.metrics import mutual_info_score

    a: NDArray[np.int64] = first.numpy()
    b: NDArray[np.int64] = second.numpy()
    found = float(mutual_info_score(a, b))
    random = np.random.default_rng(seed)
    others = np.array([mutual_info_score(random.permutation(a), b) for _ in range(DRAWS)])
    return Association(found, float((1 + (others >= found - 1e-9).sum()) / (1 + DRAWS)))


def counted(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return how often classes ``rows`` and ``columns`` (N,) meet, a table of ``shape``."""
    return torch.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
