"""What a test keeps, made small: images of 8 bits, averaged maps, maps of 8 bits with their range."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MAP_SIDE = 64
"""Height and width in pixels, at most, of the maps that are kept."""

IMAGE_SIDE = 128
"""Height and width in pixels, at most, of the images that are kept."""


def reduced(maps: Tensor, side: int = MAP_SIDE) -> Tensor:
    """Return maps (B, T, H, W), made smaller by averaging where a side is longer than ``side``."""
    size = (min(side, maps.shape[-2]), min(side, maps.shape[-1]))
    return maps.float() if tuple(maps.shape[-2:]) == size else F.adaptive_avg_pool2d(maps.float(), size)


def to_bytes(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[float]]:
    """Return values as 0..255 between a low and a high end that are also returned.

    The low end is 0 for values that are not negative, else minus the high end for values of both signs.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    elif low >= 0:
        low = 0.0
    span = high - low if high > low else 1.0
    scaled = np.nan_to_num((values.astype(np.float64) - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(255 * scaled).clip(0, 255).astype(np.uint8), [low, low + span]


def covered(masks: Tensor, side: int) -> np.ndarray[Any, Any]:
    """Return the cells (B, h, w), bool, that masks (B, 1, H, W) cover by half or more.

    Of a region smaller than half a cell, which would vanish, the cells stay that it covers most.
    """
    share = reduced((masks.detach() > 0.5).float(), side)[:, 0]
    top = share.amax(dim=(-2, -1), keepdim=True)
    found: np.ndarray[Any, Any] = ((share >= torch.minimum(top, torch.tensor(0.5))) & (share > 0)).cpu().numpy()
    return found


def small_image(images: Tensor) -> np.ndarray[Any, Any]:
    """Return the first of images (B, C, H, W) in [0, 1] as bytes (h, w, 3), of at most `IMAGE_SIDE` pixels a side."""
    small = reduced(images.detach(), IMAGE_SIDE)[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    colours = np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small[..., :3]
    found: np.ndarray[Any, Any] = np.round(255 * np.nan_to_num(colours)).astype(np.uint8)
    return found
