"""Scores of attention maps, reconstruction, KL and code, as `vaex.explain` states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention.latent import check_options
from vaex.attention.methods import method_named
from vaex.attention.normal import normal_codes, normal_maps
from vaex.attention.targets import target_named
from vaex.errors import VaexError
from vaex.metrics.faithfulness.randomising import with_fresh_weights
from vaex.scores.evidence import Evidence, maps_of
from vaex.scores.matching import FREE
from vaex.scores.score import Score, need

DEVIATION_EPS = 1e-2
"""Added to the deviation of normal maps: this share of its mean over all latents and positions."""

COVARIANCE_RIDGE = 1e-3
"""Added to the covariance of normal codes on its diagonal: this share of the diagonal's mean."""

TINY = 1e-12
"""Least of either, for normal images that do not vary at all."""


@dataclass(frozen=True)
class MeanAttention(Score):
    """Mean over targets of the maps that the evidence holds."""

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        maps = need(evidence.maps, f"score={self.known_as} needs attention maps, which were not computed.")
        return maps.mean(1, keepdim=True)


@dataclass(frozen=True)
class Attention(MeanAttention):
    """Mean of the maps over targets, and its sum over pixels (the paper's M, summed).

    ``maps`` are options of `vaex.attention.latent_attention` (``{"target": "kl", "layer": "conv2"}``; what is not given
    is that function's default) for maps of its own beside those that are shown; None: the maps that are shown.
    ``untrained`` asks the same network with fresh weights for them: the control of what training adds.

    Source: Liu et al., CVPR 2020, section 3.1: M = 1/D sum_i M^i.

    Raises:
        VaexError: for an unknown option, method or target, one of ``size``, ``chunk`` and ``create_graph``, or
            ``untrained`` without ``maps``.
    """

    maps: Mapping[str, Any] | None = None
    untrained: bool = False

    name: ClassVar = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maps is None:
            if self.untrained:
                raise VaexError("score=attention with untrained=true needs maps of its own: maps={target: ...}.")
            return
        if not isinstance(self.maps, Mapping):
            raise VaexError(f"Option maps of score=attention must be attention options by name, got {self.maps!r}.")
        check_options(self.maps)
        if fixed := [name for name in FREE if name in self.maps]:
            raise VaexError(f"Option maps of score=attention takes no {fixed[0]}; its maps have the images' size.")
        method_named(self.maps.get("method", "grad_cam"))
        target_named(self.maps.get("target", "mean"))

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override] # it depends on the options
        """The maps that are shown, or the model for maps of its own."""
        return ("maps",) if self.maps is None else ("model",)

    @property
    def calibrated(self) -> bool:  # type: ignore[override] # it depends on the options
        """Whether the target of its own maps compares with normal codes."""
        return bool(getattr(target_named((self.maps or {}).get("target", "mean")), "calibrated", False))

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        if self.maps is None:
            return super().measure(evidence)
        model = with_fresh_weights(evidence.model) if self.untrained else evidence.model
        return maps_of(model, evidence.images, evidence.raw, **self.maps).mean(1, keepdim=True)


@dataclass(frozen=True)
class Reconstruction(Score):
    """Squared error summed over channels, and its sum over pixels."""

    name: ClassVar = "reconstruction"
    reads: ClassVar = ("reconstruction",)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        expected = need(
            evidence.reconstruction,
            "score=reconstruction needs a model with a decoder of images; use score=attention, or for a feature VAE "
            "score=feature_error.",
        )
        return (evidence.images - expected).square().sum(1, keepdim=True)


@dataclass(frozen=True)
class KL(MeanAttention):
    """KL(q(z|x) || p(z)) in nats as the number; the map, which a KL has not, is the attention of the same targets.

    Choose ``attention.target=kl`` to see where the image makes the code depart from the prior.
    """

    name: ClassVar = "kl"
    own_map: ClassVar = False
    reads: ClassVar = ("maps", "kl")

    def number(self, evidence: Evidence, score_map: Tensor) -> Tensor:
        """Return the total KL (B,)."""
        sentence = "score=kl needs a model that states a log-variance; use score=attention."
        return need(evidence.kl, sentence).flatten(1).sum(1)


@dataclass(frozen=True)
class Deviation(Score):
    """Mean over latents of |M_i - mean_i| / (deviation_i + eps) with the normal maps' moments, and its sum over pixels.

    The moments are those of every position of the layer, bilinear to the image; eps is `DEVIATION_EPS` of the mean
    deviation, so that a position where no normal image has attention, or a latent without any, does not outweigh the
    others. The score has no unit: 1 per pixel is about what a normal image has.
    """

    name: ClassVar = "deviation"
    calibrated: ClassVar = True
    compares_maps: ClassVar = True

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        normal = normal_maps(evidence.calibration)
        maps = need(evidence.maps, f"score={self.known_as} needs attention maps, which were not computed.")
        if normal.mean.shape[0] != maps.shape[1]:
            raise VaexError(
                f"score=deviation needs the maps that the model was calibrated with, {normal.mean.shape[0]} an image, "
                f"got {maps.shape[1]}; give the same attention options, or run `vaex calibrate ckpt=...` with these."
            )
        eps = max(DEVIATION_EPS * float(normal.deviation.mean()), TINY)
        mean, spread = (
            F.interpolate(part[None].to(maps), maps.shape[-2:], mode="bilinear", align_corners=False) for part in normal
        )  # (1, T, H, W)
        return ((maps - mean).abs() / (spread + eps)).mean(1, keepdim=True)


@dataclass(frozen=True)
class Mahalanobis(MeanAttention):
    """Squared Mahalanobis distance of the code to the normal codes as the number; the map is the mean attention.

    The covariance gets a ridge, `COVARIANCE_RIDGE` of the mean of its diagonal: latents that hardly vary, or normal
    images that are fewer than the latents, would make it singular.

    Source: P. C. Mahalanobis, "On the generalised distance in statistics", 1936.
    """

    name: ClassVar = "mahalanobis"
    own_map: ClassVar = False
    calibrated: ClassVar = True
    reads: ClassVar = ("maps", "mean")

    def number(self, evidence: Evidence, score_map: Tensor) -> Tensor:
        """Return the squared distance (B,)."""
        codes, mean = normal_codes(evidence.calibration), evidence.mean
        if mean is None or mean.shape[1] != len(codes.mean):
            given = "none" if mean is None else f"one of {mean.shape[1]}"
            raise VaexError(
                f"score=mahalanobis needs the code of {len(codes.mean)} latents, got {given}; calibrate again."
            )
        covariance = codes.covariance.double().cpu()
        ridge = max(COVARIANCE_RIDGE * float(covariance.diagonal().mean()), TINY)
        factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
        offsets = mean.double().cpu() - codes.mean.double().cpu()  # (B, D)
        whitened = torch.linalg.solve_triangular(factor, offsets.T, upper=False)  # (D, B)
        squared: Tensor = whitened.square().sum(0).to(score_map)
        return squared
