"""Targets that are no numbers: which images have them is told, and their maps are NaN."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class Watch:
    """Notes during one call which targets of which images were not finite, whatever image they were computed of."""

    def __init__(self) -> None:
        self.spoilt: Tensor | None = None  # (B, T)
        self.told: list[int] = []  # images whose layer was not finite, which has been told

    def note(self, values: Tensor) -> None:
        """Look at targets (B, T)."""
        wrong = ~values.detach().isfinite()
        self.spoilt = wrong if self.spoilt is None else self.spoilt | wrong

    def marked(self, maps: Tensor) -> Tensor:
        """Return maps (B, T, h, w), NaN where the target was no number: a gradient may look sound there."""
        if self.spoilt is None or not bool(self.spoilt.any()):
            return maps
        images = self.spoilt.any(1).nonzero().flatten().tolist()
        if set(images) - set(self.told):
            warnings.warn(
                f"The target is not finite for {len(images)} of {len(maps)} images (positions {images[:8]}): their "
                "maps are NaN; check these images for NaN, and the weights.",
                stacklevel=2,
            )
        return maps.masked_fill(self.spoilt[..., None, None], torch.nan)
