"""Smoothing against scipy's Gaussian filter, enlargement against torch's bilinear interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from vaex.scores.smoothing import enlarge, smooth


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.8, 4.0, 20.0])
@pytest.mark.parametrize("size", [(12, 9), (1, 7)])
def test_smoothing_is_scipy_s(sigma: float, size: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = smooth(maps, sigma)
    for b in range(2):
        for t in range(3):
            expected = gaussian_filter(maps[b, t].numpy(), sigma, mode="nearest") if sigma else maps[b, t].numpy()
            np.testing.assert_allclose(found[b, t], expected, rtol=1e-9)


def test_enlarging_is_bilinear() -> None:
    maps = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps, (20, 16), mode="bilinear")
    torch.testing.assert_close(enlarge(maps, (20, 16)), expected)
    torch.testing.assert_close(enlarge(maps, (5, 4)), maps)
