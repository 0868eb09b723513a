"""How much two maps look at the same place."""

from vaex.metrics.overlap import overlap_ratio

__all__ = ["overlap_ratio"]
