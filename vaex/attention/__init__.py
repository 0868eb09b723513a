"""Gradient attention from the latent space: pure functions on tensors, no state, no persistent hooks."""

from vaex.attention.fusion import FUSIONS
from vaex.attention.image_methods import IMAGE_METHODS, Gradient, IntegratedGradients, ScoreCAM, SmoothGradient
from vaex.attention.latent import latent_attention
from vaex.attention.maps import attention_maps
from vaex.attention.methods import METHODS
from vaex.attention.overlap import overlap_ratio
from vaex.attention.target import Target
from vaex.attention.targets import (
    KL,
    TARGETS,
    LogVar,
    Mahalanobis,
    Mean,
    NegELBO,
    NormalDifference,
    Sample,
    Sum,
    TotalKL,
)

__all__ = [
    "FUSIONS",
    "IMAGE_METHODS",
    "KL",
    "METHODS",
    "TARGETS",
    "Gradient",
    "IntegratedGradients",
    "LogVar",
    "Mahalanobis",
    "Mean",
    "NegELBO",
    "NormalDifference",
    "Sample",
    "ScoreCAM",
    "SmoothGradient",
    "Sum",
    "Target",
    "TotalKL",
    "attention_maps",
    "latent_attention",
    "overlap_ratio",
]
