"""Fitting detectors: what each learns from normal images, kept under its name in the calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.calibrate import calibrated_with
from vaex.data.anomalies import paste_defects
from vaex.errors import VaexError
from vaex.explanation import calibration_of, evidence_of
from vaex.held_out import HeldOut
from vaex.scores.evidence import Evidence
from vaex.scores.registry import ScoreLike, score_named, with_bases
from vaex.scores.score import DefectFitter, Fitter, Score

PER_SCORE = ("detectors", "normal_scores", "normal_pixels", "normal_options")
"""What a calibration keeps by name of the score."""


def fit_detectors(
    model: nn.Module,
    scores: Sequence[ScoreLike],
    batches: Iterable[Tensor],
    held_out: Iterable[Tensor] | HeldOut = (),
    calibration: Mapping[str, Any] | None = None,
    layer: Any = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Return by name what those of ``scores`` that are fitted learn from ``batches`` of normal images (B, C, H, W).

    ``held_out`` are normal images that are not among them; of these at most `MOST_KEPT` are looked at. A `HeldOut` of
    the same model has a layer and options of its own.
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
    beside = held_out if isinstance(held_out, HeldOut) else HeldOut(model, held_out, layer, **options)
    found: dict[str, dict[str, Any]] = {}
    for second in (False, True):
        these = [score for score in named.values() if bool(score.bases) == second]
        if these:
            known["detectors"] = {**(known.get("detectors") or {}), **found}
            with calibrated_with(original(model), known):
                found |= _fit(model, these, batches, beside, layer, options)
    return found


def _fit(
    model: nn.Module,
    scores: Sequence[Score],
    batches: Iterable[Tensor],
    held_out: HeldOut,
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
    held_out.forget()
    beside = held_out.first("maps" in reads)
    learners = [fitter for fitter in fitters.values() if isinstance(fitter, DefectFitter)]
    if learners:
        _show_defects(model, learners, beside, look)
    options_of = {score.known_as: {"name": score.name, **score.options_of_fit()} for score in scores}
    return {name: {**fitter.state(beside), "options": options_of[name]} for name, fitter in fitters.items()}


def _show_defects(
    model: nn.Module, learners: Sequence[DefectFitter], beside: Sequence[Evidence], look: Callable[[Tensor], Evidence]
) -> None:
    """Give ``learners`` copies of the images ``beside`` with a defect each."""
    taken = 0
    for part in beside:
        pasted = paste_defects(part.images, range(taken, taken + len(part.images)))
        evidence = look(pasted.images)._replace(known={})
        with undisturbed(original(model), part.images):
            for learner in learners:
                learner.take_defects(evidence, pasted.masks)
        taken += len(part.images)


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
