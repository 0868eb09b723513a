"""Scores by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaex.checked import call_checked
from vaex.errors import unknown
from vaex.scores.combination import Combination
from vaex.scores.controls import MeanMap
from vaex.scores.evidence import Evidence, Scored
from vaex.scores.feature import FeatureDistance, FeatureError, FeatureResidual, PaDiM
from vaex.scores.image import KL, Attention, Deviation, Mahalanobis, Reconstruction
from vaex.scores.norms import FeatureNorm, SyntheticMetric
from vaex.scores.patchcore import PatchCore
from vaex.scores.projection import Projection
from vaex.scores.score import Score

SCORES: dict[str, type[Score]] = {
    score.name: score
    for score in (
        *(Attention, Reconstruction, KL, Deviation, Mahalanobis, Projection),
        *(FeatureError, FeatureDistance, FeatureResidual, PaDiM, PatchCore),
        *(FeatureNorm, SyntheticMetric),
        *(MeanMap, Combination),
    )
}
"""Every score by its name."""

ScoreLike = str | Mapping[str, Any] | Score


def score_named(score: ScoreLike) -> Score:
    """Return a score by its name, by a mapping of name and options, or as it is.

    Raises:
        VaexError: for an unknown name (the nearest is told) or option.
    """
    if isinstance(score, Score):
        return score
    options = dict(score) if isinstance(score, Mapping) else {"name": score}
    name = str(options.pop("name", None))
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    found: Score = call_checked(f"score '{name}'", SCORES[name], options)
    return found


def score_images(score: ScoreLike, evidence: Evidence) -> Scored:
    """Return a score of a batch; an unknown one is answered with the nearest."""
    return score_named(score)(evidence)


def needs_calibration(score: ScoreLike) -> bool:
    """Return whether the score needs a model that was calibrated, or fitted for it."""
    found = score_named(score)
    return found.calibrated or found.fitter() is not None
