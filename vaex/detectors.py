"""Fitting detectors: what each learns from normal images, kept under its name in the calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.calibrate import calibrated_with
from vaex.data.anomalies import paste_defects
from vaex.errors import VaexError
from vaex.explanation import calibration_of, evidence_of
from vaex.scores.evidence import Evidence
from vaex.scores.registry import ScoreLike, score_named
from vaex.scores.score import DefectFitter, Fitter, Score
from vaex.scores.thresholds import map_quantiles, normal_state

MOST_HELD_OUT = 64
"""Held-out images that choices are made by; more would only take memory."""

MOST_SCORED = 1000
"""Held-out images that are scored for the threshold."""


def fit_detectors(
    model: nn.Module,
    scores: Sequence[ScoreLike],
    batches: Iterable[Tensor],
    held_out: Iterable[Tensor] = (),
    calibration: Mapping[str, Any] | None = None,
    layer: Any = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Return by name what those of ``scores`` that are fitted learn from ``batches`` of normal images (B, C, H, W).

    ``held_out`` are normal images that are not among them; of these at most `MOST_HELD_OUT` are looked at.
    ``calibration`` is what else is known of normal images (default: what the model holds); ``layer`` and ``options``
    are those of `vaex.attention.latent_attention`, for scores that read maps. Scores that are made of others take a
    second pass, so ``batches`` must be one that can be repeated; the others are fitted with them. A score that looks
    at what the model does not state is left out; who asks for it later is told.

    Raises:
        VaexError: for an unknown score or option, two scores under one name, or images that cannot be scored.
    """
    asked = [score_named(score) for score in scores]
    asked = [*asked, *(base for score in asked for base in score.bases)]
    wanted = [score for score in asked if score.fitter() is not None]
    named = {score.known_as: score for score in wanted}
    for score in wanted:
        if named[score.known_as] != score:
            raise VaexError(f"Two scores are called '{score.known_as}'; give one of them another label.")
    known = dict(calibration_of(model) if calibration is None else calibration)
    found: dict[str, dict[str, Any]] = {}
    for second in (False, True):
        these = [score for score in named.values() if bool(score.bases) == second]
        if these:
            known["detectors"] = {**(known.get("detectors") or {}), **found}
            with calibrated_with(original(model), known):
                found |= _fit(model, these, batches, held_out, layer, options)
    return found


def _fit(
    model: nn.Module,
    scores: Sequence[Score],
    batches: Iterable[Tensor],
    held_out: Iterable[Tensor],
    layer: Any,
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    reads = {name for score in scores for name in score.fit_reads}

    def look(images: Tensor) -> Evidence:
        return evidence_of(model, images, layer, reads=reads, **options)[0]

    fitters: dict[str, Fitter] = {}
    for score in scores:
        fitter = score.fitter()
        if fitter is not None:
            fitters[score.known_as] = fitter
    for images in batches:
        evidence = look(images)
        for score in scores:
            if any(getattr(evidence, name) is None for name in score.fit_reads):
                fitters.pop(score.known_as, None)
        if not fitters:
            return {}
        with undisturbed(original(model), images):
            for fitter in fitters.values():
                fitter.take(evidence)
    learners = [fitter for fitter in fitters.values() if isinstance(fitter, DefectFitter)]
    beside = _beside(model, held_out, look, learners)
    options_of = {score.known_as: {"name": score.name, **score.options_of_fit()} for score in scores}
    return {name: {**fitter.state(beside), "options": options_of[name]} for name, fitter in fitters.items()}


def _beside(
    model: nn.Module,
    held_out: Iterable[Tensor],
    look: Callable[[Tensor], Evidence],
    learners: Sequence[DefectFitter],
) -> list[Evidence]:
    """Return what is seen of held-out images; ``learners`` are given copies of them with a defect each."""
    found: list[Evidence] = []
    taken = 0
    for images in held_out:
        images = images[: MOST_HELD_OUT - taken]
        found.append(look(images)._replace(known={}))
        if learners:
            pasted = paste_defects(images, range(taken, taken + len(images)))
            evidence = look(pasted.images)._replace(known={})
            with undisturbed(original(model), images):
                for learner in learners:
                    learner.take_defects(evidence, pasted.masks)
        taken += len(images)
        if taken >= MOST_HELD_OUT:
            break
    return found


def score_normal(
    model: nn.Module,
    score: ScoreLike,
    held_out: Iterable[Tensor],
    calibration: Mapping[str, Any] | None = None,
    layer: Any = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Return what a threshold of ``score`` is read from: scores and maps of normal images that were not trained on.

    At most `MOST_SCORED` of ``held_out``, batches (B, C, H, W), are scored, by a model that holds ``calibration``::

        normal_scores: by name of the score, (N,)
        normal_pixels: by name of the score, (N, Q), values that the shares `PIXEL_RATES` of their pixels exceed
        normal_options: by name of the score, its options

    Nothing is kept of a score that the model cannot give, or whose numbers are not finite.
    """
    main = score_named(score)
    scores: list[Tensor] = []
    quantiles: list[Tensor] = []
    left = MOST_SCORED
    with calibrated_with(original(model), calibration_of(model) if calibration is None else calibration):
        for images in held_out:
            evidence, _, _ = evidence_of(model, images[:left], layer, reads=main.reads, **options)
            if main.missing(evidence):
                return {}
            with undisturbed(original(model), images):
                found = main(evidence)
            scores.append(found.score.float().cpu())
            quantiles.append(map_quantiles(found.score_map.float()).cpu())
            left -= len(evidence.images)
            if left <= 0:
                break
    if not scores or not all(bool(part.isfinite().all()) for part in (*scores, *quantiles)):
        return {}
    return normal_state(main, torch.cat(scores), torch.cat(quantiles))
