"""Correlations of maps, one number for each, with ties and constants thought of."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation over the last axis, in [-1, 1]: shape (..., n) twice to (...).

    0 where ``a`` alone is constant, since it then says nothing of ``b``; NaN where ``b`` is constant, since there is
    nothing to say.
    """
    a, b = a.double(), b.double()
    flat_a, flat_b = _constant(a), _constant(b)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    a, b = _to_one(a), _to_one(b)  # squares of small numbers would underflow
    both = (a * b).sum(-1)
    size = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    result = torch.where(flat_a, 0.0, both / torch.where(size > 0, size, 1.0)).clamp(-1, 1)
    return torch.where(flat_b, torch.nan, result)


def _constant(values: Tensor) -> Tensor:
    # sums of equal numbers differ by rounding, which would correlate with anything
    high, low = values.amax(-1), values.amin(-1)
    return high - low <= 1e-12 * torch.maximum(high.abs(), low.abs())


def _to_one(values: Tensor) -> Tensor:
    largest = values.abs().amax(-1, keepdim=True)
    return values / torch.where(largest > 0, largest, 1.0)


def ranks(values: Tensor) -> Tensor:
    """Return the ranks over the last axis from 0 on, ties sharing the mean of theirs; float64, shape kept."""
    rows = values.reshape(-1, values.shape[-1])
    ordered = rows.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, rows.contiguous(), right=False)
    upto = torch.searchsorted(ordered, rows.contiguous(), right=True)
    return ((below + upto - 1).double() / 2).reshape(values.shape)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation over the last axis, (..., n) twice to (...) in [-1, 1]; constants as in `pearson`.

    Source: Spearman, 1904; ties by their mean rank.
    """
    return pearson(ranks(a), ranks(b))
