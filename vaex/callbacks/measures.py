"""How well several scores of the same images find what is anomalous, as images and as pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.errors import VaexError
from vaex.metrics.detection import DetectionMetrics
from vaex.metrics.localization import LocalizationMetrics
from vaex.scores import Score, Scored, score_named
from vaex.scores.registry import ScoreLike

IMAGE_KEYS = ("image_auroc", "image_ap")
"""Measures that `DetectionMetrics` gives, of the same numbers."""


def named_apart(scores: Sequence[ScoreLike]) -> dict[str, Score]:
    """Return scores by the name they are logged by.

    Raises:
        VaexError: for an unknown score or option, or two scores of one name.
    """
    found = [score_named(score) for score in scores]
    names = [score.known_as for score in found]
    if len(set(names)) < len(names):
        raise VaexError(f"Scores are told apart by name, got {', '.join(names)}; give one of them another label.")
    return dict(zip(names, found, strict=True))


class ScoreMeasures:
    """Measures of every score over a test: AUROC and AP of its number, and, where masks come, of its map.

    ``resolution`` is the height and width at which maps and masks are compared, None for that of the images; maps
    are resized bilinearly, and a pixel of a resized mask is anomalous where more than half of it was; of a defect that
    would vanish the pixels stay that it covers most. An image that is labelled anomalous and whose mask is empty tells
    nothing of its pixels: it counts for AUROC and AP of the images alone. Of images in tiles AUROC and AP are those of
    whole images, of the highest of their tiles, and pixels are counted tile by tile.
    """

    def __init__(self, scores: Mapping[str, Score], resolution: int | None, device: Any) -> None:
        self.scores, self.resolution, self.device = dict(scores), resolution, device
        self._detection: DetectionMetrics | None = None
        self._localization: dict[str, LocalizationMetrics] = {}

    def update(
        self,
        scored: Mapping[str, Scored],
        labels: Tensor,
        masks: Tensor | None = None,
        kinds: Tensor | None = None,
        names: Sequence[str] = (),
        images: Tensor | None = None,
    ) -> None:
        """Take in a batch: scores by name, labels (B,), masks (B, 1, H, W), ``kinds`` (B,), positions in ``names``.

        ``images`` (B,) say of which image each tile is, where images are cut.
        """
        if self._detection is None:
            self._detection = DetectionMetrics(list(scored)).to(self.device)
        self._detection.update({name: found.score for name, found in scored.items()}, labels, images)
        if masks is None:
            return
        share = self._resized(masks.float(), "area")  # (B, 1, H, W)
        peak = share.amax((2, 3), keepdim=True)
        truth = (share > 0.5) | ((share == peak) & (peak > 0) & (peak <= 0.5))
        told = (labels.flatten().to(truth.device) <= 0) | truth.flatten(1).any(1)
        kept, lost = told.nonzero().flatten(), (~told).nonzero().flatten()
        groups = None if kinds is None or not names else [names[int(kind)] for kind in kinds.flatten()[kept.cpu()]]
        if not len(kept) and images is None:
            return
        for name, found in scored.items():
            if self.scores[name].own_map:
                metric = self._localization.get(name)
                if metric is None:
                    metric = self._localization[name] = LocalizationMetrics().to(self.device)
                maps = self._resized(found.score_map, "bilinear")
                numbers, score = None if images is None else images.to(kept.device), found.score.to(kept.device)
                own = None if numbers is None else numbers[kept]
                metric.update(maps[kept], truth[kept], scores=score[kept], groups=groups, images=own)
                if numbers is not None and len(lost):  # their images are not normal ones
                    metric.update_unmarked(score[lost], numbers[lost])

    def _resized(self, maps: Tensor, mode: str) -> Tensor:
        side = self.resolution
        if side is None or tuple(maps.shape[-2:]) == (side, side):
            return maps
        return F.interpolate(maps, size=(side, side), mode=mode)

    def compute(self) -> dict[str, Tensor]:
        """Return ``<measure>_<score>``, and ``<measure>_<score>/<kind>`` for each kind of defect."""
        result: dict[str, Tensor] = {}
        if self._detection is not None:
            result |= {name: torch.as_tensor(value) for name, value in self._detection.compute().items()}
        for score, metric in self._localization.items():
            for key, value in metric.compute().items():
                measure, slash, kind = key.partition("/")
                if measure not in IMAGE_KEYS or slash:
                    result[f"{measure}_{score}{slash}{kind}"] = torch.as_tensor(value)
        return result
