"""`vaex bench what=scoring`: from one image to its score map, beside the encoder, or bare feature extractor, alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Timing, clock_of, interleaved, one_thread, quartiles
from vaex.explanation import evidence_of, score_only
from vaex.networks import VAE, FeatureVAE
from vaex.scores import Score

MOST = 1.4
"""Goal: times the bare feature extractor that a score of features may take, at batch 1."""

CODE = "its code"


@dataclass(frozen=True)
class ScoringResult:
    """Timings of one run's model by contestant; the first is the floor, ``goal`` the score that shall be fast."""

    name: str
    timings: Mapping[str, Timing]
    goal: str | None


def floor_of(model: VAE) -> Contestant:
    """Return what no score of ``model`` can do without: its frozen features, or its encoder, of one image."""
    image = one_image(model)
    if isinstance(model, FeatureVAE):
        return Contestant("bare feature extractor", lambda: model.backbone(image))
    return Contestant("encoder", lambda: model.encode(image))


def one_image(model: VAE) -> torch.Tensor:
    """Return an image (1, C, H, W) of uniform noise: how long it takes does not depend on what is seen."""
    assert model.shape is not None  # noqa: S101 - for the type checker: a model of a checkpoint knows it
    place = next(model.parameters()).device
    return torch.rand(1, *model.shape, generator=torch.Generator().manual_seed(0)).to(place)


def run_scoring(
    name: str,
    model: VAE,
    scores: Sequence[Score],
    attention: Mapping[str, Any],
    rounds: int,
    budget: float,
) -> ScoringResult:
    """Time the ``scores`` that the model can give, the first of which is its own, one image at a time, in turn.

    ``attention`` are layer and options of `vaex.attention.latent_attention`, for scores that read maps.
    """
    image = one_image(model)
    device = str(image.device)
    reads = {"maps", *(field for score in scores for field in score.reads)}
    evidence, _, _ = evidence_of(model, image, reads=reads, **attention)
    given = [score for score in scores if not score.missing(evidence)]
    contestants = [floor_of(model), Contestant(CODE, lambda: model.encode(image))]
    contestants += [
        Contestant(score.known_as, partial(score_only, model, image, score=score, **attention)) for score in given
    ]
    with one_thread(), torch.no_grad():
        timings = interleaved(contestants, rounds, clock_of(device), budget)
    judged = given[0].known_as if given and given[0] == scores[0] and isinstance(model, FeatureVAE) else None
    return ScoringResult(name, timings, judged)


def scoring_table(result: ScoringResult) -> Table:
    """Return ms an image, and how many times the floor each takes, with quartiles."""
    rows = []
    for name, timing in result.timings.items():
        ratio, seconds = quartiles(timing.ratios), quartiles(timing.seconds).median
        goal = "-"
        if name == result.goal:
            goal = f"<= {MOST:g} {'met' if ratio.median <= MOST else 'MISSED'}"
        rows.append((name, f"{1e3 * seconds:.1f}", f"{ratio.median:.2f}", f"{ratio.low:.2f}-{ratio.high:.2f}", goal))
    notes = ("One image of noise at a time, from memory to score map and score; on cpu the CPU time of one thread.",)
    return Table(f"Scoring: {result.name}", ("", "ms", "times the floor", "quartiles", "goal"), tuple(rows), notes)


def scoring_content(result: ScoringResult) -> dict[str, Any]:
    """Return the result as plain values for JSON: seconds an image and ratios to the floor."""
    rows = {
        name: {"seconds": quartiles(timing.seconds)._asdict(), "ratio": quartiles(timing.ratios)._asdict()}
        for name, timing in result.timings.items()
    }
    return {"name": result.name, "goal": MOST if result.goal else None, "contestants": rows}
