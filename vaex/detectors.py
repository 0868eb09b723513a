"""Fitting detectors: what each learns from normal images, kept under its name in the calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
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
"""Held-out images that are scored for the thresholds."""

PER_SCORE = ("detectors", "normal_scores", "normal_pixels", "normal_options")
"""What a calibration keeps by name of the score."""


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


def check_stated(
    model: nn.Module,
    score: ScoreLike,
    images: Tensor,
    calibration: Mapping[str, Any],
    layer: Any = None,
    **options: Any,
) -> None:
    """Check by ``images`` (B, C, H, W) that the model, with ``calibration``, states what ``score`` looks at.

    Raises:
        VaexError: the score's own, or that of what it is made of, when it does not.
    """
    main = score_named(score)
    for part in (*main.bases, main):
        reads = {*part.reads, *part.fit_reads}
        with calibrated_with(original(model), calibration):
            evidence = evidence_of(model, images, layer, reads=reads, **options)[0]
            if any(getattr(evidence, name) is None for name in reads):
                with undisturbed(original(model), images):
                    part(evidence)


def score_normal(
    model: nn.Module,
    scores: Sequence[ScoreLike],
    held_out: Iterable[Tensor],
    calibration: Mapping[str, Any] | None = None,
    layer: Any = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Return what thresholds of ``scores`` are read from: scores and maps of normal images that were not trained on.

    At most `MOST_SCORED` of ``held_out``, batches (B, C, H, W), are scored in one pass, by a model that holds
    ``calibration``; what a score is made of is scored with it::

        normal_scores: by name of the score, (N,)
        normal_pixels: by name of the score, (N, Q), values that the shares `PIXEL_RATES` of their pixels exceed
        normal_options: by name of the score, its options

    Nothing is kept of a score that the model cannot give, or whose numbers are not finite.
    """
    given = with_bases([score_named(score) for score in scores])
    reads = {name for score in given.values() for name in score.reads}
    batches: dict[str, list[tuple[Tensor, Tensor]]] = {}
    left = MOST_SCORED
    with calibrated_with(original(model), calibration_of(model) if calibration is None else calibration):
        for images in held_out:
            evidence = evidence_of(model, images[:left], layer, reads=reads, **options)[0]._replace(known={})
            given = {name: score for name, score in given.items() if not score.missing(evidence)}
            with undisturbed(original(model), images):
                for name, score in given.items():
                    said = score(evidence)
                    values = said.score.float().cpu(), map_quantiles(said.score_map.float()).cpu()
                    batches.setdefault(name, []).append(values)
            left -= len(evidence.images)
            if left <= 0:
                break
    kept: dict[str, dict[str, Any]] = {}
    for name, score in given.items():
        if name not in batches:  # there were no images
            continue
        numbers, quantiles = (torch.cat(part) for part in zip(*batches[name], strict=True))
        if bool(numbers.isfinite().all() and quantiles.isfinite().all()):
            for key, state in normal_state(score, numbers, quantiles).items():
                kept.setdefault(key, {}).update(state)
    return kept


def with_bases(scores: Sequence[Score]) -> dict[str, Score]:
    """Return ``scores`` by name, and behind them what they are made of; of two under one name the first."""
    found: dict[str, Score] = {}
    for one in [*scores, *(base for score in scores for base in score.bases)]:
        found.setdefault(one.known_as, one)
    return found


def scored_again(held: Mapping[str, Any], scores: Sequence[Score]) -> list[Score]:
    """Return what an earlier calibration ``held`` and must be calibrated again with ``scores``, which it is not among.

    It reads attention maps or normal codes, which every calibration fits anew, or is made of a score that is. What is
    made of a score that now has other options stays as it is: who asks for it is told.
    """
    named = with_bases(scores)
    again: list[Score] = []
    waiting = [score for score in held_scores(held) if score.known_as not in named]
    while more := [score for score in waiting if _follows(score, named) and not _parted(score, named)]:
        again += more
        named |= {name: score for name, score in with_bases(more).items() if name not in named}
        waiting = [score for score in waiting if score.known_as not in named]
    return again


def _follows(score: Score, named: Mapping[str, Score]) -> bool:
    parts = [score, *score.bases]
    reads = any("maps" in (*part.reads, *part.fit_reads) or part.calibrated for part in parts)
    return reads or any(base.known_as in named for base in score.bases if base.fitter() is not None)


def _parted(score: Score, named: Mapping[str, Score]) -> bool:
    return any(named.get(base.known_as, base) != base for base in score.bases if base.fitter() is not None)


def held_scores(calibration: Mapping[str, Any]) -> list[Score]:
    """Return the scores that a calibration was fitted for or scored normal images with, those it can name."""
    options = {name: state.get("options") for name, state in (calibration.get("detectors") or {}).items()}
    found = []
    for name, known in {**options, **(calibration.get("normal_options") or {})}.items():
        with suppress(VaexError):  # of another version
            found.append(score_named({**(known or {}), "label": "" if (known or {}).get("name") == name else name}))
    return found


def merged_into(held: Mapping[str, Any], calibration: Mapping[str, Any], scores: Sequence[Score]) -> dict[str, Any]:
    """Return ``calibration``, made for ``scores``, and beside it what ``held`` knows of others."""
    anew = with_bases(scores)
    beside = {
        key: {name: state for name, state in (held.get(key) or {}).items() if name not in anew} for key in PER_SCORE
    }
    return {**calibration, **{key: {**beside[key], **calibration.get(key, {})} for key in PER_SCORE}}
