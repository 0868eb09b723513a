"""Large images in tiles: each is scored alone, and the maps are put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaex.attention.maps import resize_maps
from vaex.data.tiling import Tile, tile_pixels, tiles_of
from vaex.errors import VaexError
from vaex.scores.evidence import Scored


class ScoredTiles(NamedTuple):
    """What is said of one image that was scored tile by tile, on the CPU."""

    score_map: Tensor  # (1, 1, H, W)
    score: Tensor  # (1,)
    tiles: list[Tile]
    tile_scores: Tensor  # (N,), of each tile


def score_tiles(
    pixels: Tensor,
    shape: tuple[int, int],
    score: Callable[[Tensor], Scored],
    tile: int,
    overlap: int,
    batch_size: int = 1,
) -> ScoredTiles:
    """Return the score map, the score and the scores of all tiles of one image ``pixels`` (C, H, W) on the CPU.

    Pixels are in [0, 1], of 8 bits. Tiles are brought to ``shape`` (h, w), the size that ``score`` takes, as files are
    that hold them, and their maps back, which may lower a peak. Where tiles overlap the map is the highest, so that
    nothing that one of them finds is averaged away, and the score is the highest of all tiles. Memory is that of a few
    images.

    Raises:
        VaexError: as `tiles_of`.
    """
    height, width = (int(side) for side in pixels.shape[-2:])
    whole = torch.full((height, width), -torch.inf)
    tiles, found = tiles_of(height, width, tile, overlap), []
    for group in _grouped(tiles, batch_size):
        crops = np.stack([tile_pixels(pixels.numpy(), part, shape) for part in group])
        maps, scores = score(torch.from_numpy(crops))
        maps = maps.float().cpu()
        found.append(scores.float().cpu())
        for part, one in zip(group, maps, strict=True):
            rows, columns = slice(part.top, part.bottom), slice(part.left, part.right)
            back = resize_maps(one[None], (part.bottom - part.top, part.right - part.left), shape)[0, 0]
            whole[rows, columns] = torch.maximum(whole[rows, columns], back)
    if not found:
        raise VaexError("An image without pixels has no tiles.")
    scores = torch.cat(found)
    return ScoredTiles(whole[None, None], scores.amax(0, keepdim=True), tiles, scores)


def _grouped(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]
