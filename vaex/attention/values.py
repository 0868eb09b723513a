"""From a model's output to the scalars that are differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vaex.attention.checks import whole_numbers
from vaex.attention.outputs import code_of
from vaex.attention.target import Reduce, Seen, Target
from vaex.attention.targets import TargetLike, target_named
from vaex.errors import VaexError, unknown


def check_reduce(reduce: Reduce) -> None:
    """Refuse a reduction of latent grids that is none, whether or not there is a grid.

    Raises:
        VaexError: for an unknown name, or what is no pair of whole numbers.
    """
    if isinstance(reduce, str):
        if reduce not in ("sum", "max"):
            raise unknown("reduction of a latent grid", reduce, ["sum", "max", "(i, j)"])
        return
    whole_numbers("reduce by a cell (i, j)", reduce)


def over_cells(values: Tensor, reduce: Reduce) -> Tensor:
    """Take a latent grid (B, D, h, w) to (B, D) by sum, max or a cell (i, j); a code (B, D) stays as it is.

    Raises:
        VaexError: for another shape, an unknown reduction or a cell outside the grid.
    """
    check_reduce(reduce)
    if values.dim() == 2:
        return values
    if values.dim() != 4:
        raise VaexError(f"A code must be (B, D) or a latent grid (B, D, h, w), got {tuple(values.shape)}.")
    if reduce == "sum":
        return values.sum((-2, -1))
    if reduce == "max":
        return values.amax((-2, -1))
    cell = whole_numbers("reduce by a cell (i, j)", reduce)
    if len(cell) != 2 or any(not 0 <= i < cells for i, cells in zip(cell, values.shape[-2:], strict=True)):
        raise VaexError(f"Cell {tuple(cell)} lies outside the latent grid of {tuple(values.shape[-2:])} cells.")
    row, column = cell
    return values[..., row, column]


def _of_callable(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] == 0:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise VaexError(f"A target must return a tensor (B, T) with T of at least 1, got {shape}.")
    if values.is_complex():
        raise VaexError(f"A target must return real numbers, got {values.dtype}; return its real part or its size.")
    return values


def target_values(
    output: Any,
    target: TargetLike = "mean",
    latents: Sequence[int] | None = None,
    reduce: Reduce = "sum",
    model: Any = None,
    images: Tensor | None = None,
) -> Tensor:
    """Return the scalars to differentiate, (B, T): T latents, or 1 for a total; a callable gets the raw output.

    Of a target with S draws they are (B, S T), draw by draw. ``latents`` are kept in their order, repetitions
    included; a total adds up these alone. ``model`` and ``images`` are what some targets look at besides.

    Raises:
        VaexError: for an unknown name, latents that are no list, out of range or beside a target without latents, or a
            callable that returns another shape.
    """
    found = target_named(target)
    if not isinstance(found, Target):
        if latents is not None:
            raise VaexError("latents chooses among named targets; a callable target returns the columns that it wants.")
        return _of_callable(found(output))
    values = found.values(Seen(code_of(output), lambda grid: over_cells(grid, reduce), model, images, reduce))
    if found.single:
        if latents is not None:
            raise VaexError(
                f"latents={list(latents)} has no meaning for {type(found).__name__}, which is of the whole code."
            )
        return values
    if latents is not None:
        numbers, last = whole_numbers("latents", latents), values.shape[1] - 1
        wrong = [latent for latent in numbers if not 0 <= latent <= last]
        if wrong or not numbers:
            raise VaexError(f"Latents {wrong or numbers} are out of range: the model has latents 0 to {last}.")
        values = values[:, numbers]
    if found.total:
        return values.sum(1, keepdim=True)
    if found.draws == 1:
        return values
    drawn: Tensor = values.unflatten(0, (found.draws, -1)).transpose(0, 1).flatten(1)  # (B, S T)
    return drawn
