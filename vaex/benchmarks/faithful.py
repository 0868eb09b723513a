"""`vaex bench what=faithfulness`: all methods and targets by all measures, trained and untrained, with controls.

Of data with factors, latents are matched as in `vaex.benchmarks.pointing` and the truth is the pixels that a factor
moves; of other data the most active latents are taken, and where the images carry masks those are the truth. Maps of
the whole code have tables of their own: of data with factors their truth is the pixels that any factor moves, and on
images that are labelled anomalous the deletion to normal is measured as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaex.benchmarks.makers import Maker, makers_of, makers_of_whole
from vaex.benchmarks.pointing import Findings, Latents, Method, Subject, factor_masks, matched_latents
from vaex.data.loading import spread_batches
from vaex.errors import VaexError
from vaex.metrics.faithfulness import FaithfulnessMetrics, Question, Settings
from vaex.metrics.faithfulness.measures import Share, normal_share
from vaex.metrics.latents import active_units
from vaex.networks import VAE
from vaex.probing import (
    anomalous,
    codes_of_latents,
    latent_answer,
    latent_question,
    reconstructed,
    target_modules,
    values_of,
)

NORMAL = "deletion_to_normal_kl"
"""The measure of anomaly maps: what is left of the excess KL while their top pixels turn normal."""
WHOLE = Latents((), ("-",), (float("nan"),), 0, 0)
"""In the place of latents, where maps are of the whole code."""


@dataclass(frozen=True)
class Options:
    """What is measured: images, also per batch, the layer, the least match, and how many latents without factors."""

    images: int = 64
    batch: int = 32
    layer: str | None = None
    least: float = 0.3
    latents: int = 4
    fill: str | None = None
    settings: Settings = field(default_factory=Settings)


def chosen_latents(subject: Subject, options: Options) -> Latents:
    """Return the latents that are measured: those matched with a factor, else the ``options.latents`` most active.

    Raises:
        VaexError: when no latent is active or, of data with factors, matched.
    """
    data: Any = subject.data
    if _draws(data):
        return matched_latents(subject.trained, data, options.least)
    device = next(subject.trained.parameters()).device
    batches = spread_batches(data.test_set, 512, 64)
    codes = torch.cat([codes_of_latents(subject.trained, items["image"].to(device)).cpu() for items in batches])
    if codes.dim() != 2:
        raise VaexError(f"{subject.name}: the code is a grid (B, D, h, w); what=faithfulness needs latents (B, D).")
    active, variance = active_units(codes), codes.var(0, correction=0)
    kept = sorted(variance.argsort(descending=True)[: min(options.latents, int(active.sum()))].tolist())
    if not kept:
        raise VaexError(f"{subject.name}: all latents are collapsed, so there is nothing to explain; train longer.")
    rest = int(active.sum()) - len(kept)
    return Latents(tuple(kept), ("-",) * len(kept), (float("nan"),) * len(kept), int((~active).sum()), rest)


def _draws(data: Any) -> bool:
    """Tell whether the data can draw an image with one factor moved."""
    return hasattr(data, "grid_set") and len(getattr(data, "factor_names", ())) > 0


def _masks(data: Any, items: Any, latents: Latents) -> Tensor | None:
    if _draws(data):
        names = latents.factors if latents.numbers else data.factor_names
        moved = factor_masks(data, items["index"], names)
        return moved if latents.numbers else moved.amax(1, keepdim=True)
    mask: Tensor | None = items.get("mask")
    return None if mask is None else mask[:, :1]


def measure_subject(
    subject: Subject,
    pairs: Sequence[tuple[Method, str]],
    options: Options,
    progress: Any = None,
    *,
    whole: bool = False,
) -> Findings:
    """Measure every maker of maps on ``options.images`` test images of one run, spread over its test set.

    ``whole`` tells that all targets have one map of the whole code, and none a map per latent. A maker that the model
    does not allow is left out with its reason. ``progress`` is called with each row's name, after it.

    Raises:
        VaexError: as `chosen_latents`.
    """
    latents = WHOLE if whole else chosen_latents(subject, options)
    models = {"trained": subject.trained, "untrained": subject.untrained}
    metrics: dict[tuple[str, str], _Taken] = {}
    skipped: dict[str, str] = {}
    count = 0
    for items in spread_batches(subject.data.test_set, options.images, options.batch):
        count += len(items["image"])
        for weights, model in models.items():
            asked = _Asked(model, items, latents, _masks(subject.data, items, latents), options)
            for maker in asked.makers(pairs):
                if maker.row not in skipped:
                    taken = metrics.setdefault((maker.row, weights), _Taken(len(latents.numbers) or 1))
                    try:
                        asked.take(taken, maker)
                    except VaexError as error:
                        skipped[maker.row] = str(error)
                if progress is not None:
                    progress(f"{subject.name}: {maker.row}, {weights}")
    rows: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    for (row, weights), taken in metrics.items():
        if row not in skipped:
            rows.setdefault(row, {})[weights] = taken.found()
    return Findings(subject.name, latents, count, rows, skipped)


class _Taken:
    """What one row has answered so far."""

    def __init__(self, maps: int) -> None:
        self.metric = FaithfulnessMetrics(maps)
        self.normal: list[Share] = []

    def found(self) -> dict[str, tuple[float, ...]]:
        """Return measure -> one number per map."""
        found = {name: tuple(values.tolist()) for name, values in self.metric.per_target().items()}
        if self.normal:
            total, weight = (float(sum(part[place] for part in self.normal)) for place in (0, 1))
            found[NORMAL] = (total / weight if weight else float("nan"),)
        return found


class _Asked:
    """One batch and one network: a question for each target, asked of all that make maps of it."""

    def __init__(self, model: VAE, items: Any, latents: Latents, masks: Tensor | None, options: Options) -> None:
        self.model, self.latents, self.masks, self.options = model, latents, masks, options
        self.images: Tensor = items["image"].to(next(model.parameters()).device)
        self.unusual = anomalous(items)
        self._normal: Tensor | None = None
        self._questions: dict[str, Question] = {}
        self._modules: dict[str, list[str]] = {}

    def makers(self, pairs: Sequence[tuple[Method, str]]) -> list[Maker]:
        """Return all that make maps."""
        if not self.latents.numbers:
            return makers_of_whole(pairs, self.options.layer)
        return makers_of(self.model, self.images, pairs, self.latents.numbers, self.options.layer)

    def take(self, taken: _Taken, maker: Maker) -> None:
        """Let ``taken`` take in what ``maker`` answers."""
        target, chosen = maker.target, self.options.settings
        if target not in self._questions:
            self._questions[target] = latent_question(
                self.model,
                self.images,
                list(self.latents.numbers) or None,
                target,
                fill=self.options.fill,
                masks=self.masks,
                settings=chosen,
            )
            self._modules[target] = target_modules(self.model, self.images, target)
        answer = latent_answer(
            self.model,
            self.images,
            maker.maps,
            signed=maker.signed,
            modules=self._modules[target],
            seed=chosen.seed,
        )
        taken.metric.update(self._questions[target], answer)
        if not self.latents.numbers and bool(self.unusual.any()):
            self._to_normal(taken, answer.maps)

    def _to_normal(self, taken: _Taken, maps: Tensor) -> None:
        images = self.images[self.unusual]
        if self._normal is None:
            self._normal = reconstructed(self.model, images)
        if self._normal is not None:
            judge, steps = values_of(self.model, images, "total_kl"), self.options.settings.steps
            taken.normal.append(normal_share(judge, images, maps[self.unusual], self._normal, steps))
