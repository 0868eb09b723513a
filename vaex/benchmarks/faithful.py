"""`vaex bench what=faithfulness`: all methods and targets by all measures, trained and untrained, with controls.

Of data with factors, latents are matched as in `vaex.benchmarks.pointing` and the truth is the pixels that a factor
moves; of other data the most active latents are taken, and where the images carry masks those are the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaex.benchmarks.makers import Maker, makers_of
from vaex.benchmarks.pointing import Findings, Latents, Method, Subject, factor_masks, matched_latents
from vaex.data.loading import spread_batches
from vaex.errors import VaexError
from vaex.metrics.faithfulness import FaithfulnessMetrics, Question, Settings
from vaex.metrics.maps import active_units
from vaex.networks import VAE
from vaex.probing import codes_of_latents, latent_answer, latent_question, target_modules


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
    if hasattr(data, "grid_set") and len(getattr(data, "factor_names", ())):
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


def _masks(data: Any, items: Any, latents: Latents) -> Tensor | None:
    if "-" not in latents.factors:
        return factor_masks(data, items["index"], latents.factors)
    mask: Tensor | None = items.get("mask")
    return None if mask is None else mask[:, :1]


def measure_subject(
    subject: Subject, pairs: Sequence[tuple[Method, str]], options: Options, progress: Any = None
) -> Findings:
    """Measure every maker of maps on ``options.images`` test images of one run, spread over its test set.

    A maker that the model does not allow is left out with its reason. ``progress`` is called with each
    row's name, after it.

    Raises:
        VaexError: as `chosen_latents`.
    """
    latents = chosen_latents(subject, options)
    models = {"trained": subject.trained, "untrained": subject.untrained}
    metrics: dict[tuple[str, str], FaithfulnessMetrics] = {}
    skipped: dict[str, str] = {}
    count = 0
    for items in spread_batches(subject.data.test_set, options.images, options.batch):
        count += len(items["image"])
        for weights, model in models.items():
            images = items["image"].to(next(model.parameters()).device)
            asked = _Asked(model, images, latents, _masks(subject.data, items, latents), options)
            for maker in makers_of(model, images, pairs, latents.numbers, options.layer):
                if maker.row not in skipped:
                    metric = metrics.setdefault((maker.row, weights), FaithfulnessMetrics(len(latents.numbers)))
                    try:
                        asked.take(metric, maker)
                    except VaexError as error:
                        skipped[maker.row] = str(error)
                if progress is not None:
                    progress(f"{subject.name}: {maker.row}, {weights}")
    rows: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    for (row, weights), metric in metrics.items():
        if row not in skipped:
            found = {name: tuple(values.tolist()) for name, values in metric.per_target().items()}
            rows.setdefault(row, {})[weights] = found
    return Findings(subject.name, latents, count, rows, skipped)


class _Asked:
    """One batch and one network: a question for each target, asked of all that make maps of it."""

    def __init__(self, model: VAE, images: Tensor, latents: Latents, masks: Tensor | None, options: Options) -> None:
        self.model, self.images, self.latents, self.masks, self.options = model, images, latents, masks, options
        self._questions: dict[str, Question] = {}
        self._modules: dict[str, list[str]] = {}

    def take(self, metric: FaithfulnessMetrics, maker: Maker) -> None:
        """Let ``metric`` take in what ``maker`` answers."""
        target, chosen = maker.target, self.options.settings
        if target not in self._questions:
            self._questions[target] = latent_question(
                self.model,
                self.images,
                list(self.latents.numbers),
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
        metric.update(self._questions[target], answer)
