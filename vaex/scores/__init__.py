"""Scores: what a picture's anomaly is, as a map over its pixels and as one number."""

from vaex.scores.image import CALIBRATED, SCORES, Scored, score_images

__all__ = ["CALIBRATED", "SCORES", "Scored", "score_images"]
