"""The images of a test with the highest and the lowest scores, for a table with their maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from vaex.callbacks.pictures import logged_step
from vaex.callbacks.strips import Strip, strip_of, wandb_image, wandb_loggers
from vaex.modules.batches import entry, group_names, images_of
from vaex.types import Explanation

COLUMNS = ("end", "rank", "index", "label", "kind", "score", "maps")
"""Columns of the table; ``rank`` 1 is the most, or the least, anomalous image."""


ColumnsOf = Callable[[Explanation], tuple[Sequence[int], Sequence[str]]]
"""Which maps of an explanation are drawn, and their titles."""


class Extreme(NamedTuple):
    """An image that stands in the table; None for what the data does not state."""

    score: float
    place: int  # position in the data set
    label: int | None  # 1 for anomalous
    kind: str | None
    strip: Strip


class Extremes:
    """Keep the ``count`` images of highest and the ``count`` of lowest score; of equal ones those of lower index.

    An image is drawn when it enters, so its maps need not stay in memory. ``names`` are those of the kinds of images.
    """

    def __init__(self, count: int, names: Sequence[str] = ()) -> None:
        self.count, self.names = count, names
        self._top: list[Extreme] = []
        self._bottom: list[Extreme] = []
        self._seen = 0

    def update(self, batch: Any, explanation: Explanation, columns_of: ColumnsOf) -> None:
        """Take in a batch; scores that are not finite are left out."""
        images, masks = images_of(batch), entry(batch, "mask")
        index, labels, kinds = (entry(batch, key) for key in ("index", "label", "group"))
        for n, score in enumerate(explanation.score.tolist()):
            place = self._seen + n if index is None else int(index[n])
            high = len(self._top) < self.count or (-score, place) < _falling(self._top[-1])
            low = len(self._bottom) < self.count or (score, place) < _rising(self._bottom[-1])
            if not (high or low) or not math.isfinite(score):
                continue
            label = None if labels is None else int(labels.flatten()[n])
            kind = None if kinds is None or not self.names else self.names[int(kinds.flatten()[n])]
            one = explanation.image(n)
            strip = strip_of(images[n], one, None if masks is None else masks[n], *columns_of(one))
            found = Extreme(score, place, label, kind, strip)
            self._top = sorted([*self._top, found], key=_falling)[: self.count]
            self._bottom = sorted([*self._bottom, found], key=_rising)[: self.count]
        self._seen += len(explanation.score)

    def merged(self) -> Extremes:
        """Return the extremes over all processes; each must call it."""
        parts: list[Any] = [(self._top, self._bottom)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (self._top, self._bottom))
        result = Extremes(self.count)
        result._top = _unique(sorted((found for top, _ in parts for found in top), key=_falling))[: self.count]
        result._bottom = _unique(sorted((found for _, low in parts for found in low), key=_rising))[: self.count]
        return result

    def rows(self) -> list[tuple[str, int, Extreme]]:
        """Return (end, rank, image): the most anomalous first, then the least anomalous.

        No image stands in both: where there are few, the lower half is the least anomalous.
        """
        top, bottom = list(self._top), list(self._bottom)
        shared = {found.place for found in top} & {found.place for found in bottom}
        if shared:
            ordered = sorted({found.place: found for found in (*top, *bottom)}.values(), key=_falling)
            half = (len(ordered) + 1) // 2
            top, bottom = ordered[:half][: self.count], ordered[half:][::-1][: self.count]
        return [
            (end, rank, found)
            for end, part in (("most", top), ("least", bottom))
            for rank, found in enumerate(part, start=1)
        ]


def extremes_for(trainer: pl.Trainer, count: int) -> Extremes | None:
    """Return what collects the table of a test, None where nobody takes one."""
    return Extremes(count, group_names(trainer)) if count and wandb_loggers(trainer) else None


def log_extremes(extremes: Extremes | None, key: str, trainer: pl.Trainer) -> None:
    """Send the table of all processes to wandb; each process must call it."""
    if extremes is None:
        return
    rows = extremes.merged().rows()
    if not rows or not trainer.is_global_zero:
        return
    for logger in wandb_loggers(trainer):
        data = [
            [end, rank, found.place, found.label, found.kind, found.score, wandb_image(found.strip)]
            for end, rank, found in rows
        ]
        logger.log_table(key, list(COLUMNS), data, step=logged_step(trainer))


def _falling(found: Extreme) -> tuple[float, int]:
    return -found.score, found.place


def _rising(found: Extreme) -> tuple[float, int]:
    return found.score, found.place


def _unique(found: Iterable[Extreme]) -> list[Extreme]:
    return list({item.place: item for item in found}.values())
