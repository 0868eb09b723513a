"""A small network whose values and maps are known, and images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class Weighing(nn.Module):
    """Two values that are weighted sums of the pixels, so that weight times pixel is the whole truth about each."""

    def __init__(self, size: tuple[int, int] = (6, 5)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(2, *size, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        """Return the values (B, 2)."""
        return torch.einsum("bchw,thw->bt", images, self.weight)

    def truth(self, images: Tensor) -> Tensor:
        """Return what each pixel adds to each value: (B, 2, H, W)."""
        return (images.sum(1, keepdim=True) * self.weight).detach()


@pytest.fixture
def weighing() -> Weighing:
    return Weighing()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 2, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def maps() -> Tensor:
    """Maps that have nothing to do with anything."""
    return torch.randn(3, 2, 6, 5, generator=torch.Generator().manual_seed(1))
