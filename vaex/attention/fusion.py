"""Maps of several layers become one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mean_fusion(maps: Tensor) -> Tensor:
    """Return the mean over the layers of ``maps`` (L, B, T, H, W)."""
    return maps.mean(0)


def sum_fusion(maps: Tensor) -> Tensor:
    """Return the sum over the layers of ``maps`` (L, B, T, H, W)."""
    return maps.sum(0)


def product_fusion(maps: Tensor) -> Tensor:
    """Return the geometric mean over the layers of ``maps`` (L, B, T, H, W): bright where every layer is.

    Of signed maps it is that of the magnitudes where all layers agree about the sign, which it keeps, and 0 elsewhere.
    """
    signs = maps.detach().sign()
    # the root has no finite slope at 0: what is not above the smallest number takes no part, in both directions
    agree = (signs == signs[0]).all(0) & (maps.detach().abs() > torch.finfo(maps.dtype).tiny).all(0)
    sizes = torch.where(agree, maps.abs(), 1.0).log().mean(0).exp()
    fused = torch.where(agree, signs[0] * sizes, 0.0)
    return torch.where(maps.detach().isnan().any(0), torch.nan, fused)


def to_one(maps: Tensor) -> Tensor:
    """Return maps (..., H, W), each divided by its largest |value|; an empty one stays empty."""
    most = maps.abs().amax((-2, -1), keepdim=True)
    return maps / torch.where(most > torch.finfo(maps.dtype).tiny, most, 1.0)


def _scaled(fuse: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda maps: fuse(to_one(maps))


FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": _scaled(mean_fusion),
    "product": _scaled(product_fusion),
    "sum": sum_fusion,
}
"""How maps of several layers (L, B, T, H, W) become one (B, T, H, W).

Each is scaled to a largest |value| of 1, which makes layers alike, and images, too; ``sum`` takes them as they are, so
that a bright image stays brighter than a dark one.
"""
