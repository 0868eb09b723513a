"""Lengths of vectors at each cell: of a latent grid's code and of the features that are encoded, without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vaex.scores.evidence import Evidence
from vaex.scores.feature import FeatureScore, features_of
from vaex.scores.score import need


@dataclass(frozen=True)
class SyntheticMetric(FeatureScore):
    """Root mean square over latents of a latent grid's means at each cell: the trained code read directly.

    It is the control of an attention map that was trained on the same defects (objective=synthetic_attention).
    """

    name: ClassVar = "synthetic_metric"
    reads: ClassVar = ("grid",)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, h, w)."""
        sentence = f"score={self.known_as} reads a latent grid, which this model has not; use network=feature_grid."
        return need(evidence.grid, sentence).square().mean(1, keepdim=True).sqrt()


@dataclass(frozen=True)
class FeatureNorm(FeatureScore):
    """Root mean square over channels of what a feature VAE encodes, nothing trained or fitted besides its whitening.

    Of features that are whitened at each position (network=feature_grid) it is the Mahalanobis distance to the normal
    features there: the map that training on defects starts from.
    """

    name: ClassVar = "feature_norm"
    reads: ClassVar = ("features",)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, h, w)."""
        return features_of(evidence, self.known_as).square().mean(1, keepdim=True).sqrt()
