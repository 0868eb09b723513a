"""The attention-disentanglement term: any objective plus a penalty on latents that look at the same place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from vaex.attention import attention_maps
from vaex.attention.maps import resize_maps
from vaex.attention.values import target_values
from vaex.checked import call_checked
from vaex.errors import VaexError, unknown
from vaex.metrics.overlap import is_empty, positive_part, safe_ratio
from vaex.objectives.gathering import joint_mean, joint_sum
from vaex.objectives.terms import AFTER_TRAINING, Objective, Terms
from vaex.objectives.warmup import Warmup
from vaex.types import Batch, Posterior, VAEOutput

PAIRS = ("all", "random", "neighbours", "most_active")
"""Which latents are compared: every pair, one pair drawn per step, (0, 1) (1, 2) ..., or the two of largest KL."""

SIZES = ("layer", "input")

RECTIFIED = ("relu", "abs")
"""What of a signed map counts: the positive part, as in the paper, or its size, which no training can empty."""

PER_LATENT = ("mean", "sample", "logvar", "kl")
"""Targets with one map per latent that need nothing but the posterior; a total has nothing to compare."""


@dataclass(frozen=True)
class AttentionTerm:
    """How latents are compared: ``weight`` (lambda, in nats) times the overlap of their maps in [0, 1].

    ``pairs`` is one of `PAIRS`; ``pooled`` adds up a pair's maps over the batch before the ratio is taken, so that
    images with strong maps count more. ``layer`` is where maps are read (None: `default_layer`), ``size`` one of
    `SIZES`, ``target`` one of `PER_LATENT`, ``rectify`` one of `RECTIFIED`, ``warmup`` the options of `Warmup`.

    Raises:
        VaexError: for an unknown name or a value out of range.
    """

    weight: float = 0.0
    pairs: str = "all"
    pooled: bool = False
    layer: str | None = None
    size: str = "layer"
    target: str = "mean"
    rectify: str = "relu"
    warmup: Mapping[str, Any] | None = None
    factor: Warmup = field(init=False)

    def __post_init__(self) -> None:
        weight: Any = self.weight
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise VaexError(f"objective.attention.weight must be a number, got {weight!r}.")
        if not 0 <= float(weight) < math.inf:
            raise VaexError(f"objective.attention.weight must be 0 (off) or more, got {self.weight}.")
        pooled: Any = self.pooled
        if not isinstance(pooled, bool):
            raise VaexError(f"objective.attention.pooled must be true or false, got {pooled!r}.")
        if self.pairs not in PAIRS:
            raise unknown("attention pair rule", self.pairs, PAIRS)
        if self.size not in SIZES:
            raise unknown("attention map size", self.size, SIZES)
        if self.layer is not None and not isinstance(self.layer, str):
            raise VaexError(f"objective.attention.layer must be the name of a layer or null, got {self.layer!r}.")
        if self.target not in PER_LATENT:
            raise unknown("target of objective.attention", self.target, PER_LATENT)
        if self.rectify not in RECTIFIED:
            raise unknown("objective.attention.rectify", str(self.rectify), RECTIFIED)
        try:
            factor = call_checked("objective.attention.warmup", Warmup, self.warmup or {})
        except VaexError as error:
            raise VaexError(str(error).replace("objective.warmup", "objective.attention.warmup")) from error
        object.__setattr__(self, "factor", factor)


class _SharedMass(torch.autograd.Function):
    """Sums of min(a, b) over the cells of maps i and i + d, (B, P), from maps (B, T, hw).

    One function for all pairs: autograd would keep them one by one, and fill a gradient of all maps for each slice.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, distances: list[int]) -> Tensor:
        ctx.save_for_backward(flat)
        ctx.distances = distances
        return torch.cat([torch.minimum(flat[:, :-d], flat[:, d:]).sum(2) for d in distances], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # d min(a, b) = (da + db) / 2 + sign(b - a) (da - db) / 2, which halves it at a tie as torch.minimum does
        flat = ctx.saved_tensors[0].detach()  # the sign has no derivative
        count = flat.shape[1]
        halves = (gradient / 2).split([count - d for d in ctx.distances], 1)
        both = gradient.new_zeros(flat.shape[:2])
        result = torch.zeros_like(flat)
        for d, half in zip(ctx.distances, halves, strict=True):
            sign = torch.sub(flat[:, d:], flat[:, :-d]).sign_()
            both[:, :-d] += half
            both[:, d:] += half
            result[:, :-d].addcmul_(half[..., None], sign)
            result[:, d:].addcmul_(half[..., None], sign, value=-1)
        return result.add_(both[..., None]), None


def mean_pair_overlap(
    maps: Tensor, distances: Iterable[int], pooled: bool = False, step: int = AFTER_TRAINING
) -> Tensor:
    """Return the overlap of maps i and i + d for every d of ``distances``, averaged: () in [0, 1].

    ``maps`` is (B, T, h, w). The ratio is taken per image and pair, or with ``pooled`` per pair over the whole batch,
    that of all processes at optimiser step ``step``; two empty maps give 0 and no gradient. Differentiable twice; holds
    O(B T h w) values for the backward pass.

    Source: Liu et al., CVPR 2020, Eq. 5.
    Differs: the paper has one pair; two empty maps are undefined there (0 / 0).

    Raises:
        VaexError: for maps of another shape, and for distances that leave no pair.
    """
    distances = list(distances)
    if maps.dim() != 4 or not distances or not all(0 < d < maps.shape[1] for d in distances):
        raise VaexError(
            "The overlap of pairs needs maps (B, T, h, w) and distances from 1 to T - 1 between their latents, got "
            f"maps {tuple(maps.shape)} and distances {distances}; compare at least two latents."
        )
    flat = positive_part(maps).flatten(2)  # (B, T, hw)
    mass = flat.sum(2)  # (B, T)
    part = 2 * _SharedMass.apply(flat, distances)  # type: ignore[no-untyped-call]  # (B, P)
    total = torch.cat([mass[:, :-d] + mass[:, d:] for d in distances], 1)  # (B, P)
    if pooled:
        part, total = joint_sum(torch.stack([part.sum(0), total.sum(0)]), step)  # (P,) each
    return safe_ratio(part, total).mean()


def random_pair(count: int, step: int, seed: int = 0) -> list[int]:
    """Return two different latents of ``count``, drawn for the optimiser step ``step`` of the run with ``seed``.

    The same whenever asked; other seeds have other pairs at the same step.
    """
    mixed = (step + seed * 0x9E3779B97F4A7C15) % 2**63  # by the golden ratio: neighbouring seeds share no sequence
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed))[:2].tolist()


def most_active_pair(posterior: Posterior, step: int = AFTER_TRAINING) -> list[int]:
    """Return the two latents of the largest KL to N(0, 1), averaged over the batch and summed over a grid's cells.

    The batch is that of all processes at optimiser step ``step``, so that all compare the same latents.
    """
    kl = joint_mean(posterior.kl_to_normal().detach().mean(0), step)  # (D,) or (D, h, w)
    return kl.reshape(len(kl), -1).sum(1).topk(2).indices.tolist()


class AttentionDisentanglement:
    """``inner`` plus weight times the overlap of the attention maps of pairs of latents.

    A pair of which one map is empty has an overlap of 0, so with ``rectify`` "relu" the loss falls the fastest where
    maps lose all that is positive, and most of them do. "abs" takes the size of the signed map instead: it is empty
    only where the gradient is 0, and the ratio has no scale, so that maps must part.

    Its parts are those of ``inner``, ``attention_overlap`` (unweighted, in [0, 1]), ``attention_empty``, the share of
    maps with nothing to overlap, and ``attention_weight``. The VAE's
    output must carry its graph (gradients on, outside inference mode), and an encoder in training mode no batch-norm.
    Random pairs depend on the step and on ``seed``, that of the run, so all processes of a run draw the same, a resumed
    run repeats them and other runs have others; after training (`AFTER_TRAINING`) all pairs stand for their average.
    The maps run in the precision of the forward pass, their sums in fp32 at least.

    Source: Liu et al., "Towards Visually Explaining Variational Autoencoders", CVPR 2020, Eq. 5-6.
    Differs: the paper leaves the choice of the pair open; its reproductions hold the channel weights constant, which
    drops the second-order gradient that is kept here. ``rectify`` "abs" is ours.
    """

    def __init__(self, inner: Objective, term: AttentionTerm, layer: str, seed: int = 0) -> None:
        self.inner = inner
        self.term = term
        self.layer = layer
        self.seed = seed
        self.keep: tuple[str, ...] = tuple(dict.fromkeys((*inner.keep, layer)))
        self.needs: tuple[str, ...] = inner.needs

    def _latents(self, output: VAEOutput, step: int) -> list[int] | None:
        if self.term.pairs == "random" and step != AFTER_TRAINING:
            return random_pair(output.posterior.mean.shape[1], step, self.seed)
        return most_active_pair(output.posterior, step) if self.term.pairs == "most_active" else None

    def maps(self, images: Tensor, output: VAEOutput, step: int) -> Tensor:
        """Return the maps that optimiser step ``step`` compares, (B, T, h, w) >= 0, with their graph.

        Raises:
            VaexError: when the output carries no graph.
        """
        activation = output.activations[self.layer]
        if not activation.requires_grad:
            raise VaexError(
                "The attention term differentiates the forward pass, which ran without gradients: run the VAE under "
                "torch.enable_grad() and outside inference mode, as VAEModule does."
            )
        latents = self._latents(output, step)
        targets = target_values(output.posterior, self.term.target, latents)  # (B, T), only what is compared
        maps = attention_maps(activation, targets, rectify=self.term.rectify, create_graph=True)
        return resize_maps(maps, self.term.size, (images.shape[-2], images.shape[-1]))

    def overlap(self, maps: Tensor, step: int) -> Tensor:
        """Return the overlap of the pairs of `maps`, () in [0, 1], with its graph."""
        every = self.term.pairs == "all" or (self.term.pairs == "random" and step == AFTER_TRAINING)
        return mean_pair_overlap(maps, range(1, maps.shape[1]) if every else (1,), self.term.pooled, step)

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``."""
        terms = self.inner(images, output, step, batch)
        maps = self.maps(images, output, step)
        overlap = self.overlap(maps, step)
        weight = self.term.weight * self.term.factor(step)
        parts = {
            "attention_overlap": overlap,
            "attention_empty": is_empty(positive_part(maps.detach()).sum((2, 3))).float().mean(),
            "attention_weight": torch.as_tensor(weight, dtype=overlap.dtype, device=overlap.device),
        }
        return Terms(terms.total + weight * overlap, {**terms.parts, **parts})
