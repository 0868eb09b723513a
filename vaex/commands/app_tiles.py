"""A large image on the page of `vaex app`: scored in tiles as by `vaex explain`, and shown one tile at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.commands.scoring import Scorer
from vaex.data.tiling import Tile, tile_pixels
from vaex.viz import figure_to_array, tile_panel
from vaex.viz.overlays import Array, Pixels
from vaex.viz.panels import large_small


class Whole(NamedTuple):
    """A large image and what is said of it; tiles are in the order of falling score."""

    pixels: NDArray[np.uint8]  # (C, H, W)
    score_map: NDArray[np.float32]  # (H, W)
    score: float
    tiles: tuple[Tile, ...]
    scores: tuple[float, ...]
    small: tuple[Pixels, Array]  # image (h, w, 3) and score map (h, w) as they are drawn

    def tile(self, number: int, shape: tuple[int, int]) -> Tensor:
        """Return the pixels (1, C, h, w) of a tile at ``shape``, in [0, 1], that were scored."""
        return torch.from_numpy(tile_pixels(self.pixels, self.tiles[number], shape) / np.float32(255))[None]

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Return where a tile lies, x0 <= x < x1 and y0 <= y < y1 in pixels of the image: (x0, y0, x1, y1)."""
        part = self.tiles[number]
        return part.left, part.top, part.right, part.bottom

    def labels(self) -> list[str]:
        """Return rank, score and upper left corner of each tile, in words."""
        told = enumerate(zip(self.scores, self.tiles, strict=True), 1)
        return [f"{rank}: {score:.4g} at x {part.left}, y {part.top}" for rank, (score, part) in told]

    def picture(self, number: int, label: str, opacity: float, vmax: float | None) -> Pixels:
        """Return the picture (h, w, 3) of the image and its score map, with an outline of a tile."""
        size = int(self.pixels.shape[2]), int(self.pixels.shape[1])
        picture, values = self.small
        drawn = tile_panel(picture, values, self.box(number), size, opacity=opacity, label=label, vmax=vmax)
        return figure_to_array(drawn)

    def arrays(self) -> dict[str, Any]:
        """Return the numbers of the image and all its tiles."""
        boxes = np.array([self.box(number) for number in range(len(self.tiles))])
        told = {"whole_score_map": self.score_map, "whole_score": np.float32(self.score)}
        return {**told, "tiles": boxes, "tile_scores": np.array(self.scores, dtype=np.float32)}


def _stored(pixels: Tensor) -> NDArray[np.uint8]:
    levels = pixels.numpy() * np.float32(255)
    return np.rint(levels, out=levels).astype(np.uint8)  # in place: a large image has few copies


def whole_of(scorer: Scorer, pixels: Tensor) -> Whole:
    """Return what the model says of an image ``pixels`` (C, H, W) in its own size, in [0, 1] and of 8 bits."""
    found = scorer.tiles(pixels)
    order = found.tile_scores.argsort(descending=True, stable=True).tolist()  # what is no number comes first
    score_map = found.score_map[0, 0].numpy()
    stored = _stored(pixels)
    picture = np.broadcast_to(stored.transpose(1, 2, 0), (*score_map.shape, 3))
    return Whole(
        stored,
        score_map,
        float(found.score[0]),
        tuple(found.tiles[i] for i in order),
        tuple(float(found.tile_scores[i]) for i in order),
        large_small(picture, score_map.clip(min=0)),
    )
