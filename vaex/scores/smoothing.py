"""A score map at the size of the image, smoothed: one matrix product per axis."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention.maps import resize_maps


def gaussian_matrix(pixels: int, sigma: float) -> Tensor:
    """Return the matrix (pixels, pixels) of Gaussian smoothing with standard deviation ``sigma`` pixels, in float64.

    The kernel ends at 4 sigma and sums to 1; beyond the border its pixel is repeated. ``sigma`` 0 is the identity.
    """
    eye = torch.eye(pixels, dtype=torch.float64)
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return eye
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    padded = F.pad(eye[:, None], (radius, radius), mode="replicate")  # (pixels, 1, pixels + 2 radius)
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Return maps (B, T, H, W) smoothed by a Gaussian of ``sigma`` pixels; 0 leaves them as they are."""
    if int(4 * sigma + 0.5) == 0:
        return maps
    rows, columns = (gaussian_matrix(int(pixels), sigma).to(maps) for pixels in maps.shape[-2:])
    return torch.matmul(rows, torch.matmul(maps, columns.T))


def enlarge(maps: Tensor, size: tuple[int, int], sigma: float = 0.0) -> Tensor:
    """Return maps (B, T, h, w) at ``size`` (H, W), bilinear, then smoothed by a Gaussian of ``sigma`` of its pixels."""
    return smooth(maps if tuple(maps.shape[-2:]) == size else resize_maps(maps, size, size), sigma)
