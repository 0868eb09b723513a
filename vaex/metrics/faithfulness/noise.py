"""Stability: how far a map moves when the image moves by less than anybody sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness.question import as_maps
from vaex.metrics.overlap import check_finite


class Instability(NamedTuple):
    """Mean and largest relative change of each map over the noisy images, (B, T) each, >= 0."""

    mean: Tensor
    largest: Tensor


def instability(
    explain: Callable[[Tensor], Tensor], images: Tensor, radius: float = 0.02, samples: int = 4, seed: int = 0
) -> Instability:
    """Return ||M(x + e) - M(x)|| / ||M(x)|| over ``samples`` draws of uniform noise e in [-radius, radius], (B, T).

    ``explain`` takes images (B, C, H, W) to maps (B, T, H, W). The noise is the same for every image of the batch. NaN
    for a map that is 0 everywhere. Low is good, but proves nothing alone: a map that ignores the image has 0.

    Raises:
        VaexError: for no sample, a radius that is not above 0, or maps that are not finite or change their shape.

    Source: Yeh et al., NeurIPS 2019, max-sensitivity; as captum's ``sensitivity_max``, whose noise is drawn per image.
    """
    if samples < 1 or not radius > 0:
        raise VaexError(f"Stability needs samples >= 1 and a radius above 0, got {samples} and {radius:g}.")
    maps = as_maps(explain(images)).double()
    check_finite(maps)
    size = maps.flatten(2).norm(dim=2)  # (B, T)
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for _ in range(samples):
        noise = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64).to(images) * 2 - 1
        other = as_maps(explain(images + radius * noise)).to(maps)
        check_finite(other)
        if other.shape != maps.shape:
            raise VaexError(f"Maps of noisy images must be {tuple(maps.shape)} again, got {tuple(other.shape)}.")
        moved = (other - maps).flatten(2).norm(dim=2)
        changes.append(torch.where(size > 0, moved / torch.where(size > 0, size, 1.0), torch.nan))
    together = torch.stack(changes)
    return Instability(together.mean(0), together.amax(0))
