"""Images of 0 and 1 kept as bits, eight pixels a byte, and unpacked a batch at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.data.cache import pick_rows
from vaex.data.factors import FactorGrid
from vaex.data.grid import GridSet
from vaex.types import Batch


def pack_images(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Pack images (N, H, W) of 0 and 1 into bits (N, H * W / 8), the first pixel in the highest bit."""
    return np.packbits(images.reshape(len(images), -1), axis=1)


def unpack_images(bits: Any, rows: Any, height: int, width: int) -> Tensor:
    """Unpack rows of bits (N, H * W / 8) to images (B, 1, H, W) float32 of 0 and 1, on the device where the bits lie.

    ``bits`` is a uint8 tensor, an array, or what is indexed like one; ``rows`` (B,) are positions in it.
    """
    if isinstance(bits, Tensor):
        pixels = _shifted(bits, rows).to(torch.float32)
    else:  # numpy: for gathers of this size torch would wake its other threads, at a higher price than the work
        pixels = torch.from_numpy(np.unpackbits(_chosen(bits, rows)).astype(np.float32))
    return pixels.view(-1, 1, height, width)


def _chosen(bits: Any, rows: Any) -> NDArray[np.uint8]:
    return pick_rows(bits, rows) if isinstance(bits, np.ndarray) else np.asarray(bits[rows])


def _shifted(bits: Tensor, rows: Any) -> Tensor:
    chosen = bits[torch.as_tensor(rows, device=bits.device)]  # (B, H * W / 8)
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (chosen.unsqueeze(-1) >> shifts).bitwise_and_(1)  # (B, H * W / 8, 8)


class PackedSet(GridSet):
    """Images (1, H, W) of 0 and 1 on a grid, out of ``bits`` (N, H * W / 8) that every split shares."""

    def __init__(self, grid: FactorGrid, bits: Any, height: int, width: int) -> None:
        super().__init__(grid)
        self.bits, self.height, self.width = bits, height, width

    def draw(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (N, H, W) of 0 and 1 at ``positions`` (N,) of the grid."""
        if isinstance(self.bits, Tensor):
            pixels = _shifted(self.bits, positions).cpu().numpy()
        else:
            pixels = np.unpackbits(_chosen(self.bits, positions))
        return pixels.reshape(-1, self.height, self.width)

    def gather(self, positions: NDArray[np.int64]) -> Batch:
        """Gather image (B, 1, H, W) and mask, which are the same tensor: what is white is the object."""
        image = unpack_images(self.bits, positions, self.height, self.width)
        return Batch(image=image, mask=image)
