"""Scores that need no fitting: reconstruction error, KL and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from vaex.errors import VaexError, unknown


class Evidence(NamedTuple):
    """What a score may look at, in fp32; None stands for what the model does not state."""

    images: Tensor  # (B, C, H, W)
    maps: Tensor  # (B, T, H, W)
    reconstruction: Tensor | None  # (B, C, H, W)
    kl: Tensor | None  # (B, D) nats


class Scored(NamedTuple):
    """``score_map`` (B, 1, H, W) says "anomalous here"; ``score`` (B,) is its one number per image."""

    score_map: Tensor
    score: Tensor


def attention(evidence: Evidence) -> Scored:
    """Mean of the maps over targets, and its sum over pixels (the paper's M, summed).

    Source: Liu et al., CVPR 2020, section 3.1: M = 1/D sum_i M^i.
    """
    score_map = evidence.maps.mean(1, keepdim=True)
    return Scored(score_map, score_map.sum((1, 2, 3)))


def reconstruction(evidence: Evidence) -> Scored:
    """Squared error summed over channels, and its sum over pixels."""
    if evidence.reconstruction is None:
        raise VaexError("score=reconstruction needs a model with a decoder; use score=attention.")
    score_map = (evidence.images - evidence.reconstruction).square().sum(1, keepdim=True)
    return Scored(score_map, score_map.sum((1, 2, 3)))


def kl(evidence: Evidence) -> Scored:
    """KL(q(z|x) || p(z)) in nats as the number; the map, which a KL has not, is the attention of the same targets.

    Choose ``attention.target=kl`` to see where the image makes the code depart from the prior.
    """
    if evidence.kl is None:
        raise VaexError("score=kl needs a model that states a log-variance; use score=attention.")
    return Scored(evidence.maps.mean(1, keepdim=True), evidence.kl.flatten(1).sum(1))


SCORES: dict[str, Callable[[Evidence], Scored]] = {"attention": attention, "reconstruction": reconstruction, "kl": kl}


def score_images(name: str, evidence: Evidence) -> Scored:
    """Return the score ``name`` of a batch; an unknown one is answered with the nearest."""
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    return SCORES[name](evidence)
