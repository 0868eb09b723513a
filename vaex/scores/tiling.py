"""Large images in tiles: each is scored alone, and the maps are put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vaex.attention.maps import resize_maps
from vaex.data.images import resized_pixels
from vaex.data.tiling import Tile, tiles_of
from vaex.errors import VaexError
from vaex.scores.evidence import Scored


def score_tiles(
    pixels: Tensor,
    shape: tuple[int, int],
    score: Callable[[Tensor], Scored],
    tile: int,
    overlap: int,
    batch_size: int = 1,
) -> Scored:
    """Return the score map (1, 1, H, W) and score (1,) of one image ``pixels`` (C, H, W) that is scored tile by tile.

    Pixels are in [0, 1], of 8 bits. Tiles are brought to ``shape`` (h, w), the size that ``score`` takes, as files are
    that hold them, and their maps back, which may lower a peak. Where tiles overlap the map is the highest, so that
    nothing that one of them finds is averaged away, and the score is the highest of all tiles. Memory is that of a few
    images.

    Raises:
        VaexError: as `tiles_of`.
    """
    height, width = (int(side) for side in pixels.shape[-2:])
    whole = torch.full((height, width), -torch.inf)
    highest: Tensor | None = None
    for group in _grouped(tiles_of(height, width, tile, overlap), batch_size):
        crops = torch.cat([_resized(pixels[None, :, t.top : t.bottom, t.left : t.right], shape) for t in group])
        maps, scores = score(crops)
        maps, top = maps.float().cpu(), scores.float().cpu().amax(0, keepdim=True)
        highest = top if highest is None else torch.maximum(highest, top)
        for part, one in zip(group, maps, strict=True):
            rows, columns = slice(part.top, part.bottom), slice(part.left, part.right)
            back = resize_maps(one[None], (part.bottom - part.top, part.right - part.left), shape)[0, 0]
            whole[rows, columns] = torch.maximum(whole[rows, columns], back)
    if highest is None:
        raise VaexError("An image without pixels has no tiles.")
    return Scored(whole[None, None], highest)


def _grouped(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _resized(crop: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return ``crop`` (1, C, H, W) at ``shape`` as the reader of files resizes, for thresholds were made so."""
    if tuple(crop.shape[-2:]) == shape:
        return crop
    stored = (crop[0] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return torch.from_numpy(resized_pixels(stored, shape))[None].to(crop) / 255
