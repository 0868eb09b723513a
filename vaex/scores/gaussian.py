"""Normal distributions of what normal images have at each position, in a low-rank form that is small to keep."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaex.networks.eigen import eigh

LARGE = 1_000_000  # numbers
CHUNK = 64  # positions whose covariances are taken apart together


class Moments(NamedTuple):
    """Of vectors (K,) at P positions: their number at each, mean (P, K) and summed outer products (P, K, K)."""

    number: int
    mean: Tensor
    scatter: Tensor


def add_moments(moments: Moments | None, values: Tensor) -> Moments:
    """Return ``moments`` with those of ``values`` (N, P, K) taken in, in fp32; the tensors given are reused.

    Source: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    count = len(values)
    mean = values.mean(0)  # (P, K)
    offsets = values - mean  # (N, P, K)
    if moments is None:
        offsets = offsets.transpose(0, 1)
        return Moments(count, mean, torch.bmm(offsets.transpose(1, 2), offsets))
    total = moments.number + count
    step = mean - moments.mean
    between = step * math.sqrt(moments.number * count / total)  # one row more, not one pass more over the products
    offsets = torch.cat([offsets, between[None]]).transpose(0, 1).contiguous()  # (P, N + 1, K)
    scatter = moments.scatter.baddbmm_(offsets.transpose(1, 2), offsets)
    return Moments(total, moments.mean + step * (count / total), scatter)


def pooled(moments: Moments) -> Moments:
    """Return the moments of all positions taken together, P = 1."""
    mean = moments.mean.double().mean(0, keepdim=True)
    away = moments.mean.double() - mean  # (P, K)
    scatter = moments.scatter.double().sum(0, keepdim=True) + moments.number * (away.T @ away)
    return Moments(moments.number * len(moments.mean), mean.float(), scatter.float())


class LowRank(NamedTuple):
    """N(mean, V diag(values) V^T + rest (1 - V V^T)) at each of P positions, or, with P = 1, at all of them alike."""

    mean: Tensor  # (P, K)
    basis: Tensor  # (P, K, r) orthonormal columns
    values: Tensor  # (P, r) variances along them
    rest: Tensor  # (P,) variance across them


def low_rank(moments: Moments, rank: int) -> LowRank:
    """Return the ``rank`` strongest directions of every covariance (N - 1); the others share their mean variance.

    Source: of all such forms this one is the most likely: Tipping & Bishop, "Probabilistic Principal Component
        Analysis", 1999, Eq. 7 and 8.
    """
    rank = min(rank, moments.mean.shape[1])
    bases, values, rests = [], [], []
    for scatter in moments.scatter.split(CHUNK):
        spread, vectors = eigh(scatter / max(moments.number - 1, 1))
        ordered = spread.clamp(min=0).flip(1)  # falling
        values.append(ordered[:, :rank])
        rests.append(ordered[:, rank:].mean(1) if ordered.shape[1] > rank else torch.zeros(len(ordered)).to(ordered))
        bases.append(vectors.flip(2)[:, :, :rank])
    return LowRank(moments.mean, torch.cat(bases), torch.cat(values), torch.cat(rests))


def squared_distance(normal: LowRank, values: Tensor, shrink: float) -> Tensor:
    """Return the squared Mahalanobis distance (N, P) of ``values`` (N, P, K) for the covariance + ``shrink`` 1."""
    away = (values - normal.mean.to(values)).transpose(0, 1)  # (P, N, K)
    basis = normal.basis.to(values)
    if len(basis) == 1:  # one for all positions: one product
        away = away.flatten(0, 1)[None]
    along = torch.bmm(away, basis)  # (P, N, r)
    across = away - torch.bmm(along, basis.transpose(1, 2))  # of the lengths alone the rest would be a small difference
    strong, rest = 1 / (normal.values + shrink).to(values), 1 / (normal.rest + shrink).to(values)
    squared = (along.square() * strong[:, None]).sum(2) + across.square().sum(2) * rest[:, None]
    return squared.reshape(values.shape[1], -1).T  # by the number of positions: an export leaves that of images open


def log_likelihood(normal: LowRank, values: Tensor, shrink: float) -> Tensor:
    """Return the mean log-density in nats of ``values`` (N, P, K) at a position, with the covariance + ``shrink`` 1."""
    size, rank = normal.basis.shape[1:]
    logdet = (normal.values + shrink).log().sum(1) + (size - rank) * (normal.rest + shrink).log()  # (P,)
    distance = squared_distance(normal, values, shrink).mean()
    return -0.5 * (distance + logdet.mean().to(distance) + size * math.log(2 * math.pi))


def packed(normal: LowRank) -> dict[str, Any]:
    """Return plain tensors for a checkpoint; a large basis is rounded to half precision, in which the file keeps it."""
    large = normal.basis.numel() > LARGE
    return {**normal._asdict(), "basis": normal.basis.half().float() if large else normal.basis}


def unpacked(state: Any) -> LowRank:
    """Return what `packed` made."""
    return LowRank(*(state[name] for name in LowRank._fields))
