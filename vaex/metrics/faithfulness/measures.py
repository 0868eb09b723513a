"""All measures by name: what each adds up of a question and an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaex.errors import VaexError, unknown
from vaex.metrics.faithfulness.decoding import agreement
from vaex.metrics.faithfulness.masking import relevance_rank
from vaex.metrics.faithfulness.noise import instability
from vaex.metrics.faithfulness.perturbing import infidelity, sensitivity_n
from vaex.metrics.faithfulness.question import Answer, Question, as_maps
from vaex.metrics.faithfulness.randomising import map_similarity
from vaex.metrics.faithfulness.removal import Values, curve_area, deletion_curve, deletion_to_normal, insertion_curve
from vaex.metrics.pointing import energy_in_masks, pointing_hits


class Share(NamedTuple):
    """A measure of T maps over a batch: what is added up, and what it is divided by in the end, (T,) each."""

    total: Tensor
    weight: Tensor


def _mean(values: Tensor | None) -> Share | None:
    """Take per-map values (B, T), NaN where there is none, to their sum and number."""
    if values is None:
        return None
    there = ~values.isnan()
    return Share(torch.where(there, values, 0.0).double().sum(0), there.double().sum(0))


def _deletion(question: Question, answer: Answer) -> Share | None:
    if question.values is None or question.fill is None:
        return None
    chosen = question.settings
    curve = deletion_curve(question.values, question.images, answer.maps, question.fill, chosen.steps, chosen.seed)
    return Share(curve_area(curve).sum(0), curve[..., 0].sum(0))


def _insertion(question: Question, answer: Answer) -> Share | None:
    if question.values is None or question.fill is None:
        return None
    chosen = question.settings
    curve = insertion_curve(question.values, question.images, answer.maps, question.fill, chosen.steps, chosen.seed)
    return Share(curve_area(curve).sum(0), curve[..., -1].sum(0))


def normal_share(scores: Values, images: Tensor, score_maps: Tensor, reconstruction: Tensor, steps: int = 16) -> Share:
    """Add up `deletion_to_normal` over images, each weighed by its excess score over that of its reconstruction.

    A plain mean would be decided by images whose excess is nearly 0, by which theirs is divided.

    Raises:
        VaexError: as `deletion_to_normal`.
    """
    found = deletion_to_normal(scores, images, score_maps, reconstruction, steps)
    excess = (scores(images) - scores(reconstruction)).detach().to(found).clamp(min=0)
    return Share((found * excess).nan_to_num(0.0).double().sum(0), excess.double().sum(0))


def _infidelity(question: Question, answer: Answer) -> Share | None:
    if answer.signed is None or question.squares is None:
        return None
    return _mean(infidelity(answer.signed, question.squares, relative=True))


def _sensitivity_n(question: Question, answer: Answer) -> Share | None:
    trials = [one for one in question.subsets if one is not None] if answer.signed is not None else []
    if answer.signed is None or not trials:
        return None
    return _mean(torch.stack([sensitivity_n(answer.signed, one) for one in trials]).nanmean(0))


def _masked(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Question, Answer], Share | None]:
    def shares(question: Question, answer: Answer) -> Share | None:
        if question.masks is None:
            return None
        masks, wanted = question.masks.to(answer.maps.device), tuple(answer.maps.shape)
        if tuple(masks.shape) not in (wanted, (wanted[0], 1, *wanted[2:])):
            raise VaexError(f"Masks must fit maps {wanted}, one for each or one for all, got {tuple(masks.shape)}.")
        masks = masks.expand_as(answer.maps)
        there = (masks > 0.5).flatten(2).any(2)
        return _mean(torch.where(there, measure(answer.maps, masks).double(), torch.nan))

    return shares


def _agreement(question: Question, answer: Answer) -> Share | None:
    return None if question.response is None else _mean(agreement(answer.maps, question.response))


def _instability(question: Question, answer: Answer) -> Share | None:
    if answer.explain is None:
        return None
    chosen = question.settings
    with torch.enable_grad():  # a metric's update runs without, and most makers of maps need one
        found = instability(answer.explain, question.images, chosen.radius, chosen.samples, chosen.seed).mean
    if found.shape != answer.maps.shape[:2]:
        raise VaexError(f"The maker of {tuple(answer.maps.shape[:2])} maps gave {tuple(found.shape)} of noisy images.")
    return _mean(found)


def _randomisation(question: Question, answer: Answer) -> Share | None:  # noqa: ARG001 - one form for all
    if answer.randomised is None:
        return None
    with torch.enable_grad():  # as above: the iterable may make its maps now
        found = [map_similarity(answer.maps, as_maps(maps).to(answer.maps)) for maps in answer.randomised]
    return _mean(torch.stack(found).mean(0)) if found else None


class Measure(NamedTuple):
    """A measure: whether more is better, and its function."""

    higher: bool
    of: Callable[[Question, Answer], Share | None]


MEASURES: dict[str, Measure] = {
    "deletion": Measure(False, _deletion),
    "insertion": Measure(True, _insertion),
    "infidelity": Measure(False, _infidelity),
    "sensitivity_n": Measure(True, _sensitivity_n),
    "agreement": Measure(True, _agreement),
    "pointing_game": Measure(True, _masked(pointing_hits)),
    "energy_inside": Measure(True, _masked(energy_in_masks)),
    "relevance_rank": Measure(True, _masked(relevance_rank)),
    "randomisation": Measure(False, _randomisation),
    "instability": Measure(False, _instability),
}
"""All measures by name, in the order of the tables."""


def named_measures(names: Sequence[str] | None) -> list[str]:
    """Return ``names`` as a list; all for None.

    Raises:
        VaexError: for an unknown name, or one that comes twice.
    """
    chosen = list(MEASURES) if names is None else [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in MEASURES:
            raise unknown("faithfulness measure", str(name), MEASURES)
    if len(set(chosen)) < len(chosen):
        raise VaexError(f"A faithfulness measure is named twice in {', '.join(chosen)}: name each once.")
    return chosen
