"""Images through a model batch by batch: scores, explanations where they are wanted, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from vaex.scores.evidence import Scored
    from vaex.scores.tiling import ScoredTiles
    from vaex.types import Explanation

RUNS = 20  # measured for the latency
LONGEST = 3.0  # seconds that measuring may take


class Item(NamedTuple):
    """An image that was read."""

    name: str
    pixels: Tensor  # (C, H, W) on the CPU, of the model's size or, for tiles, of its own
    size: tuple[int, int]  # (width, height) of the original


class Looked(NamedTuple):
    """What the model says of a batch, on the CPU."""

    score_map: Tensor  # (B, 1, H, W)
    score: Tensor  # (B,)
    explanation: Explanation | None  # where it was asked for


@dataclass
class Scorer:
    """Scores images by ``score``, tile by tile where ``tile`` is given; ``options`` are those of the attention maps.

    ``own`` are those of the maps that the score reads, where they are not the ones that are shown.
    """

    model: Any
    device: Any
    score: Any
    options: Mapping[str, Any]
    shape: tuple[int, int, int]
    tile: int | None = None
    overlap: int = 0
    batch_size: int = 1
    own: Mapping[str, Any] | None = None

    def look(self, items: Sequence[Item], whole: bool = False) -> Looked:
        """Return scores of ``items``, with their explanation where ``whole``; tiles are of one item at a time."""
        import torch

        if self.tile is not None:
            (item,) = items
            tiled = self.tiles(item.pixels)
            return Looked(tiled.score_map, tiled.score, None)
        if whole:
            explanation = self.explain(items)
            return Looked(explanation.score_map, explanation.score, explanation)
        found = self.scored(torch.stack([item.pixels for item in items]))
        return Looked(found.score_map.cpu(), found.score.cpu(), None)

    def tiles(self, pixels: Tensor) -> ScoredTiles:
        """Return what is said of one image ``pixels`` (C, H, W) in its own size that is scored in tiles."""
        from vaex.scores.tiling import score_tiles

        assert self.tile is not None  # noqa: S101 - for the type checker
        return score_tiles(pixels, self.shape[1:], self.scored, self.tile, self.overlap, batch_size=self.batch_size)

    def scored(self, images: Tensor) -> Scored:
        """Return score maps and scores of ``images``, without attention maps where the score reads none."""
        from vaex.explanation import score_only

        return score_only(self.model, images.to(self.device), score=self.score, **(self.own or self.options))

    def explain(self, items: Sequence[Item]) -> Explanation:
        """Return the explanation of ``items``, on the CPU."""
        import torch

        from vaex.explanation import explain

        images = torch.stack([item.pixels for item in items]).to(self.device)
        score = self.score if self.own is None else "attention"
        explanation = explain(self.model, images, score=score, **self.options)
        if self.own is not None:
            explanation = explanation._replace(**self.scored(images)._asdict())
        return part_of(explanation, slice(None))

    def seconds(self, items: Sequence[Item]) -> list[float]:
        """Return how long each of some runs takes from one image in memory to its score; the first is not counted."""
        runs: list[float] = []
        began = time.perf_counter()
        for run in range(RUNS + 1):
            start = time.perf_counter()
            self.look([items[run % len(items)]])
            runs.append(time.perf_counter() - start)
            if len(runs) > 1 and time.perf_counter() - began > LONGEST:
                break
        return runs[1:]


def part_of(explanation: Explanation, which: Any) -> Explanation:
    """Return the explanation of some images of a batch, a slice or a list of positions, on the CPU."""
    parts: list[Any] = [None if part is None else part[which].cpu() for part in explanation]
    return type(explanation)(*parts)


def speed(images: int, seconds: float, runs: Sequence[float]) -> str:
    """Return in words how fast ``images`` went through, and the latency of single ``runs`` in seconds."""
    import numpy as np

    middle, slow = (1000 * float(value) for value in np.percentile(runs, [50, 95]))
    return (
        f"{images / max(seconds, 1e-9):.1f} images/s, files and pictures included; one image in memory to its score "
        f"p50 {middle:.1f} ms, p95 {slow:.1f} ms (batch 1, {len(runs)} runs)."
    )
