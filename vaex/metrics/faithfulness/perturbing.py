"""Infidelity and sensitivity-n: does the sum of a map over some pixels tell what their loss does to the value?

Both ask of a map that it adds up, so they are for signed maps: a rectified map has lost what works against the value.
What a loss of pixels does is independent of the map, so it is found once (`removal_changes`) for any number of maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness.correlation import pearson
from vaex.metrics.faithfulness.removal import Values, check_values, fill_of
from vaex.metrics.overlap import check_finite


class Trials(NamedTuple):
    """Which pixels were replaced, (P, H, W) bool, and the fall S(x) - S(x without them) of each value, (P, B, T)."""

    masks: Tensor
    changes: Tensor


def square_masks(count: int, side: int, size: Sequence[int], seed: int = 0) -> Tensor:
    """Return ``count`` squares of ``side`` pixels at random places inside ``size`` = (H, W): (P, H, W) bool.

    Raises:
        VaexError: when the square does not fit, or a number is below 1.
    """
    height, width = size
    if count < 1 or not 1 <= side <= min(height, width):
        raise VaexError(f"{count} squares of side {side} do not fit images of {height}x{width} pixels.")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(height - side + 1, (count, 1, 1), generator=generator)
    columns = torch.randint(width - side + 1, (count, 1, 1), generator=generator)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return (y >= rows) & (y < rows + side) & (x >= columns) & (x < columns + side)


def subset_masks(count: int, share: float, size: Sequence[int], cell: int = 1, seed: int = 0) -> Tensor:
    """Return ``count`` random subsets of the cells of ``size`` = (H, W), each the same number: (P, H, W) bool.

    ``cell`` is the side of a cell in pixels; ``share`` in (0, 1) of the cells, at least one, are in a subset.

    Raises:
        VaexError: when a number is out of range, or no cell could be left out.
    """
    height, width = size
    rows, columns = -(-height // max(cell, 1)), -(-width // max(cell, 1))
    if count < 1 or cell < 1 or not 0 < share < 1 or rows * columns < 2:
        raise VaexError(
            f"{count} subsets of {share:g} of the cells of side {cell} cannot be drawn from {height}x{width} pixels: "
            "share must lie between 0 and 1, and there must be two cells."
        )
    chosen = min(max(1, round(share * rows * columns)), rows * columns - 1)
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, rows * columns, generator=generator).argsort(1)[:, :chosen]
    cells = torch.zeros(count, rows * columns, dtype=torch.bool).scatter_(1, places, value=True)
    pixels = cells.view(count, rows, columns).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return pixels[:, :height, :width]


@torch.no_grad()
def removal_changes(values: Values, images: Tensor, fill: Tensor, masks: Tensor, targets: int) -> Tensor:
    """Return S(x) - S(x with the pixels of each mask filled) for all ``targets`` values: (P, B, T).

    ``images`` (B, C, H, W), ``fill`` the same or one for each target (B, T, C, H, W), ``masks`` (P, H, W) bool. P calls
    of ``values``, or P T where each target has a fill of its own.

    Raises:
        VaexError: when shapes do not fit, or a value is not finite.
    """
    if masks.dim() != 3 or masks.shape[1:] != images.shape[2:]:
        raise VaexError(f"Masks must be (P, H, W) of the images' size {tuple(images.shape)}, got {tuple(masks.shape)}.")
    fill, size = fill.to(images), (len(images), targets)
    whole = check_values(values(images), size)
    changes = []
    for mask in masks.to(images.device):
        if fill.dim() == images.dim():
            without = check_values(values(torch.where(mask, fill, images)), size)
        else:
            fills = fill_of(fill, images, targets)
            seen = (torch.where(mask, fills[:, i], images) for i in range(targets))
            without = torch.stack([check_values(values(one), size)[:, i] for i, one in enumerate(seen)], 1)
        changes.append(whole - without)
    return torch.stack(changes)


def mask_sums(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the sum of each map (B, T, H, W) over each mask (P, H, W): (P, B, T), float64.

    Raises:
        VaexError: when shapes do not fit, or a map is not finite.
    """
    check_finite(maps)
    if masks.dim() != 3 or masks.shape[1:] != maps.shape[2:]:
        raise VaexError(f"Masks must be (P, H, W) of the maps' size {tuple(maps.shape)}, got {tuple(masks.shape)}.")
    return torch.einsum("bthw,phw->pbt", maps.double(), masks.to(maps.device, torch.float64))


def infidelity(maps: Tensor, trials: Trials, scaled: bool = True, relative: bool = False) -> Tensor:
    """Return the mean over the trials of (b sum_mask M - change)^2, in squared units of the value: (B, T), low is good.

    ``maps`` (B, T, H, W), signed. ``scaled`` chooses b = E[sum change] / E[sum^2], the best there is, since maps and
    latents have no common scale (b may be negative: the sign of a latent is arbitrary as well); else b = 1.
    ``relative`` divides by E[change^2]: scaled it is then in [0, 1], 1 for a map that says nothing, NaN where nothing
    changes.

    Raises:
        VaexError: when shapes do not fit.

    Source: Yeh et al., NeurIPS 2019, "On the (In)fidelity and Sensitivity of Explanations", Eq. 1 and its optimal
    scale; as captum's ``infidelity(normalize=scaled)`` where I is 1 on the replaced pixels.
    """
    sums, changes = mask_sums(maps, trials.masks), trials.changes.to(maps.device)
    if changes.shape != sums.shape:
        raise VaexError(f"Changes must be {tuple(sums.shape)} like the sums of the maps, got {tuple(changes.shape)}.")
    squared = sums.square().mean(0)
    scale = (sums * changes).mean(0) / torch.where(squared > 0, squared, 1.0) if scaled else torch.ones_like(squared)
    error = (scale * sums - changes).square().mean(0)
    if not relative:
        return error
    whole = changes.square().mean(0)
    return torch.where(whole > 0, error / torch.where(whole > 0, whole, 1.0), torch.nan)


def sensitivity_n(maps: Tensor, trials: Trials) -> Tensor:
    """Return the correlation over the trials of the map's sum and the value's fall: (B, T) in [-1, 1], high is good.

    ``maps`` (B, T, H, W), signed; the trials' subsets should all be of one size n (`subset_masks`), and several n be
    looked at. 0 for a map whose sums are all the same, NaN where no subset changes the value.

    Raises:
        VaexError: when shapes do not fit.

    Source: Ancona et al., ICLR 2018, "Towards better understanding of gradient-based attribution methods".
    """
    sums, changes = mask_sums(maps, trials.masks), trials.changes.to(maps.device)
    if changes.shape != sums.shape:
        raise VaexError(f"Changes must be {tuple(sums.shape)} like the sums of the maps, got {tuple(changes.shape)}.")
    return pearson(sums.movedim(0, -1), changes.movedim(0, -1))
