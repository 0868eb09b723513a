"""Scores by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vaex.checked import call_checked
from vaex.errors import VaexError, unknown
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


def measured_scores(main: ScoreLike, beside: Sequence[ScoreLike]) -> list[Score]:
    """Return the score that decides and those ``beside`` it, each name once; nothing where none are beside.

    What has the name of the deciding score is the deciding score, with its options, in the list as in the scores that
    are made of others.

    Raises:
        VaexError: for an unknown score or option, or two scores of one name.
    """
    decides = score_named(main)
    found = [score_named(score) for score in beside]
    found = [decides if score.known_as == decides.known_as else score for score in found]
    if decides.as_options() != {"name": decides.known_as}:
        found = [score.over(decides) for score in found]
    names = [score.known_as for score in found]
    if len(set(names)) < len(names):
        raise VaexError(f"Scores are told apart by name, got {', '.join(names)}; give one of them another label.")
    return [decides, *found] if found and decides.known_as not in names else found


def with_bases(scores: Sequence[Score]) -> dict[str, Score]:
    """Return ``scores`` by name, and behind them what they are made of; of two under one name the first."""
    found: dict[str, Score] = {}
    for one in [*scores, *(base for score in scores for base in score.bases)]:
        found.setdefault(one.known_as, one)
    return found


def score_images(score: ScoreLike, evidence: Evidence) -> Scored:
    """Return a score of a batch; an unknown one is answered with the nearest."""
    return score_named(score)(evidence)


def needs_calibration(score: ScoreLike) -> bool:
    """Return whether the score needs a model that was calibrated, or fitted for it."""
    found = score_named(score)
    return found.calibrated or found.fitter() is not None
