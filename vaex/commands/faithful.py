"""Faithfulness at the end of a test: the run's own maps, asked whether they tell the truth."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vaex.attention.target import Target
from vaex.attention.targets import target_named
from vaex.attention.values import over_cells
from vaex.callbacks.pictures import logged_step
from vaex.data.loading import spread_batches
from vaex.errors import VaexError, unknown
from vaex.explanation import explain, score_only
from vaex.metrics.faithfulness import FaithfulnessMetrics, Settings
from vaex.metrics.faithfulness.measures import named_measures, normal_share
from vaex.metrics.latents import active_units
from vaex.metrics.pointing import match_factors
from vaex.probing import (
    FILLS,
    anomalous,
    attention_of,
    codes_of_latents,
    latent_answer,
    latent_question,
    reconstructed,
    target_modules,
)

if TYPE_CHECKING:
    import lightning.pytorch as pl

OWN = ("names", "images", "latents", "fill", "match")
MAPS = ("layer", "method", "target", "rectify", "reduce", "fuse", "chunk")
BATCH = 32


@dataclass(frozen=True)
class Chosen:
    """What ``metrics.faithfulness`` of a config chooses."""

    names: list[str]
    images: int
    latents: int
    fill: str | None
    match: float
    settings: Settings


def faithful_settings(metrics: Mapping[str, Any]) -> Chosen | None:
    """Return what ``metrics.faithfulness`` chooses, None without it or with an empty list of ``names``.

    Raises:
        VaexError: for an unknown key, measure or fill, or a number out of range.
    """
    found = dict(metrics.get("faithfulness") or {})
    names = found.get("names", ())
    if not found or (names is not None and not names):
        return None
    known = [*OWN, *(item.name for item in fields(Settings) if item.name != "seed")]
    for key in found:
        if key not in known:
            raise unknown("key of metrics.faithfulness", str(key), known)
    own = {key: found.pop(key) for key in OWN if key in found}
    for key, default in (("images", 64), ("latents", 8)):
        value = own.setdefault(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise VaexError(f"metrics.faithfulness.{key} must be a whole number of at least 1, got {value}.")
    fill = own.get("fill")
    if fill is not None and fill not in FILLS:
        raise unknown("fill of metrics.faithfulness", str(fill), FILLS)
    if "shares" in found:
        found["shares"] = tuple(found["shares"])
    match = float(own.get("match", 0.3))
    return Chosen(named_measures(names), own["images"], own["latents"], fill, match, Settings(**found))


def faithfulness(
    metrics: Mapping[str, Any],
    vae: nn.Module,
    data: Any,
    attention: Mapping[str, Any],
    score: Any,
    trainer: pl.Trainer,
) -> dict[str, float]:
    """Return how faithful the maps of ``attention`` are on test images of ``data``: ``faithfulness_<measure>``.

    Empty where ``metrics.faithfulness`` chooses nothing.

    Latents are those of ``attention``, else the most active ones. The truth to point at is the pixels that a latent's
    factor moves where the data can draw that, else the images' masks. Of anomalous images whose model decodes images,
    ``deletion_to_normal`` asks the score map of ``score`` by its own score, ``deletion_to_normal_kl`` by the KL. The
    numbers go to the loggers as ``faithfulness/test/<measure>``; what cannot be measured is told and not fatal.
    """
    chosen = faithful_settings(metrics)
    if chosen is None or not trainer.is_global_zero:
        return {}
    device = next((parameter.device for parameter in vae.parameters()), torch.device("cpu"))
    values: dict[str, float] = {}
    for part, what in ((_measured, "faithfulness"), (_to_normal, "deletion to normal")):
        try:
            values |= part(chosen, vae, data, attention, score, device)
        except VaexError as error:
            print(f"vaex: {what} is not measured: {error}", file=sys.stderr)
    for logger in trainer.loggers:
        logged = {f"faithfulness/test/{name}": value for name, value in values.items()}
        logger.log_metrics(logged, step=logged_step(trainer))
    return {f"faithfulness_{name}": value for name, value in values.items()}


def _active(codes: Tensor, most: int) -> list[int]:
    spread = codes.var(0, correction=0)
    kept = spread.argsort(descending=True)[: min(most, int(active_units(codes).sum()))]
    if not len(kept):
        raise VaexError("all latents are collapsed, so there is nothing to explain; train longer.")
    return sorted(kept.tolist())


def _factor_masks(chosen: Chosen, vae: nn.Module, data: Any, latents: Sequence[int], device: torch.device) -> Any:
    """Return what gives the masks (B, T, H, W) of a batch's positions, None where the data cannot move its factors."""
    if not hasattr(getattr(data, "grid_set", None), "draw"):
        return None
    from vaex.benchmarks.pointing import factor_masks

    items = data.val_set.__getitems__(list(range(min(2048, len(data.val_set)))))
    codes = torch.cat([codes_of_latents(vae, part.to(device)).cpu() for part in items["image"].split(256)])
    matching = match_factors(codes[:, list(latents)], items["factors"])
    names = [data.factor_names[int(place)] for place in matching.factor]
    strong = (matching.strength >= chosen.match).float()[None, :, None, None]
    return lambda index: factor_masks(data, index, names) * strong


def _tested(data: Any) -> Any:
    """Return the images that a test is of; a module that is not on the base of vaex's has its ``test_set`` alone."""
    return data.tested if hasattr(data, "tested") else data.test_set


def _measured(
    chosen: Chosen,
    vae: nn.Module,
    data: Any,
    attention: Mapping[str, Any],
    score: Any,  # noqa: ARG001 - one form for both parts
    device: torch.device,
) -> dict[str, float]:
    batches = list(spread_batches(_tested(data), chosen.images, BATCH))
    options = {key: attention[key] for key in MAPS if key in attention}
    target, reduce = target_named(options.get("target", "mean")), options.get("reduce", "sum")
    latents = attention.get("latents")
    if latents is None and isinstance(target, Target) and not (target.total or target.single):
        means = [codes_of_latents(vae, items["image"].to(device)) for items in batches]
        latents = _active(torch.cat([over_cells(mean, reduce) for mean in means]), chosen.latents)
    count = 1 if latents is None else len(latents)
    masks_of = None if latents is None else _factor_masks(chosen, vae, data, latents, device)

    def maps(network: nn.Module, seen: Tensor, **other: Any) -> Tensor:
        given = {**options, **({} if latents is None else {"latents": list(latents)}), **other}
        return attention_of(network, seen, **{"layer": None, **given})

    metric = FaithfulnessMetrics(count, chosen.names)
    for items in batches:
        images = items["image"].to(device)
        masks = items.get("mask") if masks_of is None else masks_of(items["index"])
        question = latent_question(
            vae, images, latents, target, fill=chosen.fill, masks=masks, settings=chosen.settings, reduce=reduce
        )
        signed = maps(vae, images, rectify="none") if {"infidelity", "sensitivity_n"} & set(chosen.names) else False
        modules = target_modules(vae, images, target) if "randomisation" in chosen.names else ()
        metric.update(question, latent_answer(vae, images, maps, signed=signed, modules=modules))
    return {name: float(value) for name, value in metric.compute().items()}


def _to_normal(
    chosen: Chosen, vae: nn.Module, data: Any, attention: Mapping[str, Any], score: Any, device: torch.device
) -> dict[str, float]:
    options = {key: attention[key] for key in (*MAPS, "latents") if key in attention}
    judges = {"deletion_to_normal": score, "deletion_to_normal_kl": "kl"}
    sums, weights = dict.fromkeys(judges, 0.0), dict.fromkeys(judges, 0.0)
    for items in spread_batches(_tested(data), chosen.images, BATCH):
        images = items["image"][anomalous(items)].to(device)
        normal = reconstructed(vae, images) if len(images) else None
        if normal is None:
            continue
        score_map = explain(vae, images, score=score, **options).score_map
        for name, judge in judges.items():

            def scores(seen: Tensor, judge: Any = judge) -> Tensor:
                return score_only(vae, seen, score=judge, **options).score[:, None]

            part = normal_share(scores, images, score_map, normal, chosen.settings.steps)
            sums[name] += float(part.total.sum())
            weights[name] += float(part.weight.sum())
    return {name: sums[name] / weights[name] for name in judges if weights[name]}
