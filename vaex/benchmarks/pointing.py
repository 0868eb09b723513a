"""`vaex bench what=pointing`: do the maps of each method lie where the latent's factor changes the image?

Of a run, latents are matched to factors on the codes of its validation images; maps of its test images are measured.
Left out are collapsed latents (variance of the mean at most 0.01) and weakly matched ones. The control of fresh weights
keeps latents, factors and masks: it tells what of a result is due to the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaex.attention import IMAGE_METHODS, METHODS, TARGETS, latent_attention
from vaex.attention.methods import method_named
from vaex.data import DSprites, Sprites
from vaex.errors import VaexError, unknown
from vaex.metrics.latents import active_units
from vaex.metrics.pointing import FactorPointing, match_factors
from vaex.networks import VAE

MEASURES = ("pointing_game", "energy_inside")
CHANCE, INTENSITY = "chance: a uniform map", "control: the image itself"
DECODED = "control: image minus its decoding with the latent at 0"
"""The factor that integrated gradients of the counterfactual baseline multiply the gradient with."""


@dataclass(frozen=True)
class Subject:
    """One run: its trained network, the same with fresh weights, and its data, set up."""

    name: str
    trained: VAE
    untrained: VAE
    data: Sprites | DSprites


@dataclass(frozen=True)
class Latents:
    """What was matched: latents kept, the factor of each, how strongly; how many were left out and why."""

    numbers: tuple[int, ...]
    factors: tuple[str, ...]
    strengths: tuple[float, ...]
    collapsed: int
    weak: int


@dataclass(frozen=True)
class Findings:
    """The measures of one run: row -> trained or untrained -> measure -> one number per kept latent."""

    name: str
    latents: Latents
    images: int
    rows: Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]]
    skipped: Mapping[str, str]


Method = str | Mapping[str, Any]
"""A method's name, or a mapping of its name and parameters."""


def split_targets(targets: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return those of ``targets`` (None: all) with a map per latent, and those with one map of the whole code.

    Raises:
        VaexError: for an unknown name, or a target with maps of something else.
    """
    kinds = {name: _kind(name) for name in TARGETS}
    for name in targets or ():
        if name not in TARGETS:
            raise unknown("attention target", str(name), TARGETS)
        if kinds[name] is None:
            choices = ", ".join(known for known, kind in kinds.items() if kind is not None)
            raise VaexError(f"Target '{name}' has maps of neither latents nor the whole code; choose among {choices}.")
    chosen = list(targets or kinds)
    return [name for name in chosen if kinds[name] == "latent"], [name for name in chosen if kinds[name] == "whole"]


def _kind(name: str) -> str | None:
    target = TARGETS[name]
    if not (target.total or target.single):
        return "latent"
    return None if target().titles else "whole"


def methods_and_targets(methods: Sequence[Method] | None, targets: Sequence[str] | None) -> list[tuple[Method, str]]:
    """Return all pairs of method and target to measure; None: all methods, all targets of one map per latent.

    Raises:
        VaexError: for an unknown name, or a target without a map per latent.
    """
    per_latent, whole = split_targets(targets)
    if targets is not None and whole:
        choices = ", ".join(split_targets(None)[0])
        raise VaexError(f"Target '{whole[0]}' has no map per latent; choose among {choices}.")
    return pairs_of(methods, per_latent)


def pairs_of(methods: Sequence[Method] | None, targets: Sequence[str]) -> list[tuple[Method, str]]:
    """Return all pairs of ``methods`` (None: all) and ``targets``.

    Raises:
        VaexError: for an unknown method.
    """
    for method in methods or ():
        method_named(method)
    return [(method, target) for method in methods or [*METHODS, *IMAGE_METHODS] for target in targets]


def matched_latents(model: VAE, data: Sprites | DSprites, least: float, batch: int = 256) -> Latents:
    """Return the latents whose code on the validation images one factor explains to a share of at least ``least``.

    Raises:
        VaexError: when no latent does.
    """
    codes, factors = [], []
    device = next(model.parameters()).device
    for positions in np.array_split(np.arange(len(data.val_set)), math.ceil(len(data.val_set) / batch)):
        items = data.val_set.__getitems__(positions.tolist())
        with torch.no_grad():
            codes.append(model.encode(items["image"].to(device)).mean.cpu())
        factors.append(items["factors"])
    means = torch.cat(codes)
    matching, active = match_factors(means, torch.cat(factors)), active_units(means)
    strong = matching.strength >= least
    kept = (active & strong).nonzero().flatten().tolist()
    if not kept:
        raise VaexError(
            f"No latent encodes one factor: the best match explains {float(matching.strength.max()):.2f} of a code's "
            f"variance, match asks for {least:g}; train longer or lower match."
        )
    return Latents(
        tuple(kept),
        tuple(data.factor_names[int(matching.factor[latent])] for latent in kept),
        tuple(float(matching.strength[latent]) for latent in kept),
        int((~active).sum()),
        int((active & ~strong).sum()),
    )


def factor_masks(data: Sprites | DSprites, index: Tensor, factors: Sequence[str]) -> Tensor:
    """Return the pixels that change when each factor of the images at ``index`` (B,) moves one step, (B, T, H, W).

    Positions are those of the grid; shapes are compared before colour and noise.
    """
    positions = index.numpy()
    before = data.grid_set.draw(positions)
    grid = data.grid_set.grid
    after = {name: data.grid_set.draw(grid.step(positions, name)) for name in set(factors)}
    return torch.from_numpy(np.stack([before != after[name] for name in factors], 1)).float()


def _batches(data: Sprites | DSprites, images: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, C, H, W) and positions (B,) of the first ``images`` of the test set."""
    count = min(images, len(data.test_set))
    for start in range(0, count, batch):
        items = data.test_set.__getitems__(list(range(start, min(start + batch, count))))
        yield items["image"], items["index"]


@torch.no_grad()
def decoded_changes(model: VAE, images: Tensor, latents: Sequence[int]) -> Tensor:
    """Return |x - g(mu with mu_i = 0)| summed over colours, (B, T, H, W), for every latent i of ``latents``."""
    codes = model.encode(images).mean
    changes = []
    for latent in latents:
        without = codes.clone()
        without[:, latent] = 0
        changes.append((images - model.decode(without).mean).abs().sum(1))
    return torch.stack(changes, 1)


def measure_run(
    subject: Subject,
    pairs: Sequence[tuple[Method, str]],
    images: int,
    least: float = 0.3,
    batch: int = 64,
    layer: str | None = None,
) -> Findings:
    """Measure every pair of method and target on the first ``images`` test images.

    A pair that the model does not allow, such as one that needs calibration, is left out with its reason.

    Raises:
        VaexError: when no latent can be matched.
    """
    latents = matched_latents(subject.trained, subject.data, least)
    numbers, names = list(latents.numbers), list(latents.factors)
    models = {"trained": subject.trained, "untrained": subject.untrained}
    metrics: dict[tuple[str, str], FactorPointing] = {}
    skipped: dict[str, str] = {}
    count = 0

    def metric(row: str, weights: str) -> FactorPointing:
        return metrics.setdefault((row, weights), FactorPointing(len(numbers)))

    for pictures, index in _batches(subject.data, images, batch):
        masks = factor_masks(subject.data, index, names)
        count += len(pictures)
        metric(CHANCE, "trained").update(torch.ones_like(masks), masks)
        metric(INTENSITY, "trained").update(pictures.mean(1, keepdim=True).expand_as(masks), masks)
        for weights, model in models.items():
            if hasattr(model, "decode"):
                given = pictures.to(next(model.parameters()).device)
                metric(DECODED, weights).update(decoded_changes(model, given, numbers).cpu(), masks)
        for method, target in pairs:
            row = row_name(method, target)
            for weights, model in models.items():
                if row in skipped:
                    continue
                given = pictures.to(next(model.parameters()).device)
                options: dict[str, Any] = {"method": method, "target": target, "rectify": "none"}
                try:
                    maps = latent_attention(model, given, layer, latents=numbers, **options)
                except VaexError as error:
                    skipped[row] = str(error)
                    continue
                metric(row, weights).update(maps.cpu(), masks)
    rows: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    for (row, weights), found in metrics.items():
        if row not in skipped:
            values = found.compute()
            rows.setdefault(row, {})[weights] = {name: tuple(values[name].tolist()) for name in MEASURES}
    return Findings(subject.name, latents, count, rows, skipped)


def row_name(method: Method, target: str) -> str:
    """Return what a pair of method and target is called in the table, the method with its parameters."""
    if isinstance(method, str):
        return f"{method}, {target}"
    options = ", ".join(str(value) for name, value in method.items() if name != "name")
    return f"{method['name']} ({options}), {target}" if options else f"{method['name']}, {target}"
