"""Detectors on image features: how unlikely a feature is where it stands, with and without a VAE between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaex.errors import VaexError, unknown
from vaex.scores.evidence import Evidence
from vaex.scores.gaussian import (
    LowRank,
    Moments,
    add_moments,
    log_likelihood,
    low_rank,
    packed,
    pooled,
    squared_distance,
    unpacked,
)
from vaex.scores.score import Score, need

POSITIONS = ("auto", "aware", "free")

NO_FEATURES = (
    "score={} looks at image features, which this model has not; train a feature VAE (network=feature_vae), or use "
    "score=reconstruction."
)


def features_of(evidence: Evidence, score: str) -> Tensor:
    """Return the features (B, K, h, w).

    Raises:
        VaexError: when the model has none.
    """
    return need(evidence.features, NO_FEATURES.format(score))


def residuals_of(evidence: Evidence, score: str) -> Tensor:
    """Return features less their expectation given z = mean, (B, K, h, w)."""
    features = features_of(evidence, score)
    sentence = f"score={score} needs a model that decodes features; use feature_distance."
    return features - need(evidence.decoded, sentence)


def by_position(values: Tensor) -> Tensor:
    """Return (B, K, h, w) as (B, h * w, K)."""
    return values.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class FeatureScore(Score):
    """Base of the detectors on features: smoothed by 4 pixels, and the maximum is the number of the image."""

    sigma: float = 4.0
    pool: str = "max"


@dataclass(frozen=True)
class FeatureError(FeatureScore):
    """Squared error of the features that a feature VAE decodes, summed over channels: nothing is fitted.

    On raw features (``network.whiten=false``) this is the map of FAVAE, with other features.

    Source: Dehaene & Eline, "Anomaly localization by modeling perceptual features", arXiv:2008.05369, section 3.
    """

    name: ClassVar = "feature_error"
    reads: ClassVar = ("features", "decoded")

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, h, w)."""
        return residuals_of(evidence, self.known_as).square().sum(1, keepdim=True)


@dataclass(frozen=True)
class FeatureDistance(FeatureScore):
    """Mahalanobis distance of the features to those of normal images, no VAE between: the control of the next one.

    ``position`` "aware" compares with the normal features at the same cell, which suits aligned objects, "free" with
    those of all cells; "auto" takes the one under which held-out normal images are more likely. To every covariance
    comes ``shrink`` times the identity; ``rank`` directions of each are kept, and the others share their mean variance.

    Source: Defard et al., "PaDiM", ICPR 2021, Eq. 2, for the distance at one position.
    Differs: whitened features, all channels, another shrinkage, low rank, and the choice of position.

    Raises:
        VaexError: for an unknown position or a rank below 1.
    """

    sigma: float = 2.0  # better than 3 or 4 on synthetic defects of validation images
    position: str = "auto"
    shrink: float = 1.0
    rank: int = 32

    name: ClassVar = "feature_distance"
    reads: ClassVar[tuple[str, ...]] = ("features",)
    fit_options: ClassVar[tuple[str, ...]] = ("position", "shrink", "rank")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position not in POSITIONS:
            raise unknown(f"position of score '{self.name}'", self.position, POSITIONS)
        if self.rank < 1:
            raise VaexError(f"Option rank of score '{self.name}' must be at least 1, got {self.rank}.")

    def values(self, evidence: Evidence) -> Tensor:
        """Return what is judged at every cell, (B, K, h, w)."""
        return features_of(evidence, self.known_as)

    def fitter(self) -> GaussianFitter:
        """Return what learns mean and covariances."""
        return GaussianFitter(self)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return the distance (B, 1, h, w)."""
        values = self.values(evidence)
        state = self.fitted(evidence)
        normal = unpacked(state)
        cells = values.shape[2] * values.shape[3]
        if normal.mean.shape[1] != values.shape[1] or len(normal.mean) not in (1, cells):
            raise VaexError(
                f"score={self.known_as} was fitted to features of another size; run `vaex calibrate ckpt=... "
                f"score={self.name}`."
            )
        squared = squared_distance(normal, by_position(values), float(state["shrink"]))
        distance: Tensor = squared.sqrt().unflatten(1, values.shape[2:])[:, None]
        return distance


@dataclass(frozen=True)
class FeatureResidual(FeatureDistance):
    """Mahalanobis distance of what the feature VAE leaves unexplained, features less their expectation given z = mean.

    It is the likelihood of a VAE whose decoder noise has full covariance, up to the log-determinant.
    """

    name: ClassVar = "feature_residual"
    reads: ClassVar = ("features", "decoded")

    def values(self, evidence: Evidence) -> Tensor:
        """Return (B, K, h, w)."""
        return residuals_of(evidence, self.known_as)


@dataclass(frozen=True)
class PaDiM(FeatureDistance):
    """PaDiM on the features of the model: ``channels`` of them at random (by ``seed``), the raw ones, per position.

    Source: Defard et al., ICPR 2021, section 3: 100 random channels, covariance + 0.01 identity.
    Differs: the backbone is the model's.
    """

    sigma: float = 4.0
    position: str = "aware"
    shrink: float = 0.01
    rank: int = 100
    channels: int = 100
    seed: int = 0

    name: ClassVar = "padim"
    reads: ClassVar = ("raw",)
    fit_options: ClassVar = ("position", "shrink", "rank", "channels", "seed")

    def values(self, evidence: Evidence) -> Tensor:
        """Return (B, channels, h, w)."""
        features = raw_features(evidence, self.known_as)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(features.shape[1], generator=generator)[: self.channels].sort().values
        return features[:, chosen.to(features.device)]


def raw_features(evidence: Evidence, score: str) -> Tensor:
    """Return the features (B, K, h, w) as they were before the model whitened them.

    Raises:
        VaexError: when the model has none.
    """
    return need(evidence.raw, NO_FEATURES.format(score))


class GaussianFitter:
    """Mean and covariance of what a `FeatureDistance` judges, at every cell; memory is cells x K x K numbers."""

    def __init__(self, score: FeatureDistance) -> None:
        self.score = score
        self.moments: Moments | None = None

    def take(self, evidence: Evidence) -> None:
        """Take in a batch of normal images."""
        self.moments = add_moments(self.moments, by_position(self.score.values(evidence)).float())

    def state(self, held_out: Sequence[Evidence]) -> dict[str, Any]:
        """Return the normal distribution of the position that explains the held-out images better."""
        score = self.score
        if self.moments is None or self.moments.number < 2:
            raise VaexError(f"score={score.known_as} needs at least 2 normal images to be fitted to.")
        candidates: dict[str, LowRank] = {}
        if score.position != "free":
            candidates["aware"] = low_rank(self.moments, score.rank)
        if score.position != "aware":
            candidates["free"] = low_rank(pooled(self.moments), score.rank)
        likelihoods = {name: self._likelihood(normal, held_out) for name, normal in candidates.items()}
        if len(candidates) > 1 and not held_out:
            raise VaexError(
                f"score={score.known_as} chooses its position by normal images that were held out, and there are none; "
                f"say position=aware or position=free."
            )
        chosen = max(likelihoods, key=lambda name: likelihoods[name])
        told = {f"likelihood_{name}": value for name, value in likelihoods.items() if held_out}
        return {**packed(candidates[chosen]), "shrink": score.shrink, "chosen": chosen, **told}

    def _likelihood(self, normal: LowRank, held_out: Sequence[Evidence]) -> float:
        values = [by_position(self.score.values(evidence)).float() for evidence in held_out]
        total = sum(len(part) * float(log_likelihood(normal, part, self.score.shrink)) for part in values)
        return total / max(sum(map(len, values)), 1)
