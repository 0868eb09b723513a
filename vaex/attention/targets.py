"""What is differentiated: scalars of the code, one map for each."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaex.attention.outputs import Code, code_of
from vaex.errors import VaexError, unknown
from vaex.types import Posterior

Reduce = str | tuple[int, int]


def _sampled(code: Code, seed: int = 0) -> Tensor:
    # one eps for all images: with one each, a map would depend on the image's place in the batch
    noise = torch.randn(code.mean.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return code.mean + torch.exp(0.5 * code.need_logvar("target 'sample'")) * noise.to(code.mean)


def _kl(code: Code) -> Tensor:
    return Posterior(code.mean, code.need_logvar("target 'kl'")).kl_to_normal()


@dataclass(frozen=True)
class LatentTarget:
    """A value per latent, ``values(code)`` shaped like the mean; ``total`` adds them up to one target (T = 1)."""

    values: Callable[[Code], Tensor]
    total: bool = False


TARGETS = {
    # where the image moves the code of this latent: the paper's question with mu for z
    "mean": LatentTarget(lambda code: code.mean),
    # the same for one seeded draw z = mu + sigma * eps, as the paper's figure 2 has it; eps is that of the latent
    "sample": LatentTarget(_sampled),
    # where the image makes the encoder less certain of this latent
    "logvar": LatentTarget(lambda code: code.need_logvar("target 'logvar'")),
    # where the image makes this latent depart from the prior N(0, 1), in nats
    "kl": LatentTarget(_kl),
    # the official code's score: sum of all mu
    "sum": LatentTarget(lambda code: code.mean, total=True),
    "total_kl": LatentTarget(_kl, total=True),
}
"""Targets by name; the sign of a latent is arbitrary, so ``mean`` and ``sum`` depend on it and ``kl`` does not."""


def whole_numbers(option: str, values: Any) -> list[int]:
    """Return ``values`` as a list of whole numbers.

    Raises:
        VaexError: when it is none; ``option`` names it.
    """
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise VaexError(f"{option} must be a list of whole numbers such as [0, 3], got {values!r}.") from None


def _over_cells(values: Tensor, reduce: Reduce) -> Tensor:
    if values.dim() == 2:
        return values
    if values.dim() != 4:
        raise VaexError(f"A code must be (B, D) or a latent grid (B, D, h, w), got {tuple(values.shape)}.")
    if reduce == "sum":
        return values.sum((-2, -1))
    if reduce == "max":
        return values.amax((-2, -1))
    if isinstance(reduce, str):
        raise unknown("reduction of a latent grid", reduce, ["sum", "max", "(i, j)"])
    cell = whole_numbers("reduce by a cell (i, j)", reduce)
    if len(cell) != 2 or any(not 0 <= i < cells for i, cells in zip(cell, values.shape[-2:], strict=True)):
        raise VaexError(f"Cell {tuple(cell)} lies outside the latent grid of {tuple(values.shape[-2:])} cells.")
    row, column = cell
    return values[..., row, column]


def _of_callable(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] == 0:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise VaexError(f"A target must return a tensor (B, T) with T of at least 1, got {shape}.")
    return values


def target_values(
    output: Any,
    target: str | Callable[[Any], Tensor] = "mean",
    latents: Sequence[int] | None = None,
    reduce: Reduce = "sum",
) -> Tensor:
    """Return the scalars to differentiate, (B, T): T latents, or 1 for a total; a callable gets the raw output.

    ``latents`` are kept in their order, repetitions included; a total adds up these alone.

    Raises:
        VaexError: for an unknown name, latents that are no list, out of range or beside a callable, or a callable that
            returns another shape.
    """
    if callable(target):
        if latents is not None:
            raise VaexError("latents chooses among named targets; a callable target returns the columns that it wants.")
        return _of_callable(target(output))
    if not isinstance(target, str) or target not in TARGETS:
        raise unknown("attention target", str(target), TARGETS)
    chosen = TARGETS[target]
    values = _over_cells(chosen.values(code_of(output)), reduce)
    if latents is not None:
        numbers, last = whole_numbers("latents", latents), values.shape[1] - 1
        wrong = [latent for latent in numbers if not 0 <= latent <= last]
        if wrong or not numbers:
            raise VaexError(f"Latents {wrong or numbers} are out of range: the model has latents 0 to {last}.")
        values = values[:, numbers]
    return values.sum(1, keepdim=True) if chosen.total else values
