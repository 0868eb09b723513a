"""Gradient attention from the latent space: pure functions on tensors, no state, no persistent hooks."""

from vaex.attention.latent import attention_maps, latent_attention
from vaex.attention.methods import METHODS
from vaex.attention.overlap import overlap_ratio
from vaex.attention.targets import TARGETS

__all__ = ["METHODS", "TARGETS", "attention_maps", "latent_attention", "overlap_ratio"]
