"""Scores of images: reconstruction error, KL, attention, and the distance from what calibration found normal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention.normal import normal_codes, normal_maps
from vaex.errors import VaexError, unknown

DEVIATION_EPS = 1e-2
"""Added to the deviation of normal maps: this share of its mean over all latents and positions."""

COVARIANCE_RIDGE = 1e-3
"""Added to the covariance of normal codes on its diagonal: this share of the diagonal's mean."""

TINY = 1e-12
"""Least of either, for normal images that do not vary at all."""


class Evidence(NamedTuple):
    """What a score may look at, in fp32; None stands for what the model does not state."""

    images: Tensor  # (B, C, H, W)
    maps: Tensor  # (B, T, H, W)
    reconstruction: Tensor | None  # (B, C, H, W)
    kl: Tensor | None  # (B, D) nats
    mean: Tensor | None = None  # (B, D) posterior means, of a latent grid reduced over its cells
    calibration: Mapping[str, Any] | None = None  # what `vaex.calibrate` fitted; None or empty where nothing was


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


def deviation(evidence: Evidence) -> Scored:
    """Mean over latents of |M_i - mean_i| / (deviation_i + eps) with the normal maps' moments, and its sum over pixels.

    The moments are those of every position of the layer, bilinear to the image; eps is `DEVIATION_EPS` of the mean
    deviation, so that a position where no normal image has attention, or a latent without any, does not outweigh the
    others. The score has no unit: 1 per pixel is about what a normal image has.
    """
    normal = normal_maps(evidence.calibration)
    if normal.mean.shape[0] != evidence.maps.shape[1]:
        raise VaexError(
            f"score=deviation needs the maps that the model was calibrated with, {normal.mean.shape[0]} an image, got "
            f"{evidence.maps.shape[1]}; give the same attention options, or run `vaex calibrate ckpt=...` with these."
        )
    eps = max(DEVIATION_EPS * float(normal.deviation.mean()), TINY)
    mean, spread = (
        F.interpolate(part[None].to(evidence.maps), evidence.maps.shape[-2:], mode="bilinear", align_corners=False)
        for part in normal
    )  # (1, T, H, W)
    score_map = ((evidence.maps - mean).abs() / (spread + eps)).mean(1, keepdim=True)
    return Scored(score_map, score_map.sum((1, 2, 3)))


def mahalanobis(evidence: Evidence) -> Scored:
    """Squared Mahalanobis distance of the code to the normal codes as the number; the map is the mean attention.

    The covariance gets a ridge, `COVARIANCE_RIDGE` of the mean of its diagonal: latents that hardly vary, or normal
    images that are fewer than the latents, would make it singular.

    Source: P. C. Mahalanobis, "On the generalised distance in statistics", 1936.
    """
    codes = normal_codes(evidence.calibration)
    if evidence.mean is None or evidence.mean.shape[1] != len(codes.mean):
        given = "none" if evidence.mean is None else f"one of {evidence.mean.shape[1]}"
        raise VaexError(f"score=mahalanobis needs the code of {len(codes.mean)} latents, got {given}; calibrate again.")
    covariance = codes.covariance.double().cpu()
    diagonal = covariance.diagonal().mean()
    ridge = max(COVARIANCE_RIDGE * float(diagonal), TINY)
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
    offsets = evidence.mean.double().cpu() - codes.mean.double().cpu()  # (B, D)
    whitened = torch.linalg.solve_triangular(factor, offsets.T, upper=False)  # (D, B)
    return Scored(evidence.maps.mean(1, keepdim=True), whitened.square().sum(0).to(evidence.maps))


SCORES: dict[str, Callable[[Evidence], Scored]] = {
    "attention": attention,
    "reconstruction": reconstruction,
    "kl": kl,
    "deviation": deviation,
    "mahalanobis": mahalanobis,
}
CALIBRATED = ("deviation", "mahalanobis")
"""Scores that need a calibrated model."""


def available(name: str, evidence: Evidence) -> bool:
    """Return whether the evidence holds what the score ``name`` looks at."""
    if name in CALIBRATED:
        return bool(evidence.calibration) and (name != "mahalanobis" or evidence.mean is not None)
    return getattr(evidence, name, evidence.maps) is not None


def score_images(name: str, evidence: Evidence) -> Scored:
    """Return the score ``name`` of a batch; an unknown one is answered with the nearest."""
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    return SCORES[name](evidence)
