"""Scores: what a picture's anomaly is, as a map over its pixels and as one number; detectors are fitted ones."""

from vaex.scores.evidence import Evidence, Scored
from vaex.scores.registry import SCORES, measured_scores, needs_calibration, score_images, score_named
from vaex.scores.score import Score

__all__ = [
    "SCORES",
    "Evidence",
    "Score",
    "Scored",
    "measured_scores",
    "needs_calibration",
    "score_images",
    "score_named",
]
