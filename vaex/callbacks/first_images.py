"""The images that the picture of a validation or a test shows."""

from __future__ import annotations

import torch
from torch import Tensor


class FirstImages:
    """The first ``most`` images that come; of labelled ones the first of both kinds, as many anomalous as normal.

    A test often begins with all images of one kind, of which a picture would tell nothing about the other. Where one
    kind has too few, the other has more of the rows. They stay in the order in which they came. Images of another shape
    than the first one's are left out.
    """

    def __init__(self, most: int) -> None:
        self.most, self._seen = most, 0
        self._shape: torch.Size | None = None
        self._kept: dict[bool, list[tuple[int, Tensor, Tensor | None]]] = {False: [], True: []}

    def update(self, images: Tensor, masks: Tensor | None, labels: Tensor | None) -> None:
        """Take in images (B, C, H, W), masks (B, 1, H, W) and labels (B,), above 0 where anomalous."""
        self._shape = self._shape or images.shape[1:]
        full = {kind for kind, rows in self._kept.items() if len(rows) >= self.most}
        if images.shape[1:] != self._shape or len(full) == 2 or (labels is None and False in full):
            return
        kinds = [False] * len(images) if labels is None else (labels.flatten() > 0).tolist()
        for position, kind in enumerate(kinds):
            if len(self._kept[kind]) < self.most:
                one = slice(position, position + 1)
                mask = None if masks is None else masks[one].clone()
                self._kept[kind].append((self._seen + position, images[one].clone(), mask))
        self._seen += len(images)

    def chosen(self) -> tuple[Tensor, Tensor | None] | None:
        """Return images (N, C, H, W) and their masks (N, 1, H, W); None where there are none to show."""
        normal, anomalous = (self._kept[kind] for kind in (False, True))
        half = min(len(anomalous), max(self.most - self.most // 2, self.most - len(normal)))
        rows = sorted(anomalous[:half] + normal[: self.most - half], key=lambda row: row[0])
        if not rows:
            return None
        masks = [mask for _, _, mask in rows if mask is not None]
        return torch.cat([image for _, image, _ in rows]), torch.cat(masks) if len(masks) == len(rows) else None
