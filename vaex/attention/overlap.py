"""How much two maps look at the same place."""

from vaex.metrics.maps import overlap_ratio

__all__ = ["overlap_ratio"]
