"""What a test leaves for the report: every image's score, small maps for curves, and a gallery of extreme images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.callbacks.batches import entry, images_of
from vaex.runs import write_atomic
from vaex.scores import Scored
from vaex.types import Explanation

MAP_SIDE = 64
"""Height and width in pixels, at most, of the maps that are kept."""

IMAGE_SIDE = 128
"""Height and width in pixels, at most, of the images that are kept."""

CURVE_IMAGES = 512
"""Most images whose score map and mask are kept for the curves; of more an even selection."""

EXTREMES = 8
"""Images kept from each end of the order: of all, of the normal and of the anomalous ones."""

LATENTS = 10
"""Most latents whose maps are kept: those of highest mean KL divergence."""


class KeptTest:
    """Takes in a test batch by batch; `write` keeps a few megabytes of it. Each process keeps its own share."""

    def __init__(
        self, score: str, options: Mapping[str, Any] | None = None, judged: bool = True, names: Sequence[str] = ()
    ) -> None:
        """``options``: of `latent_attention`; ``names``: of kinds; not ``judged``: labels mean something else."""
        given = options or {}
        method = given.get("method", "grad_cam")
        self.method = str(method["name"] if isinstance(method, Mapping) else getattr(method, "name", method))
        self.score, self.latents, self.judged, self.names = score, given.get("latents"), judged, names
        self._rows: list[dict[str, Any]] = []
        self._curves: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._gallery: dict[int, dict[str, Any]] = {}

    def take(self, batch: Any, explanation: Explanation, scored: Mapping[str, Scored]) -> None:
        """Take in a batch of a data loader with its explanation and other scores."""
        labels = entry(batch, "label") if self.judged else None
        self.update(images_of(batch), explanation, scored, labels, entry(batch, "mask"), entry(batch, "group"))

    def update(
        self,
        images: Tensor,
        explanation: Explanation,
        scored: Mapping[str, Scored],
        labels: Tensor | None,
        masks: Tensor | None,
        kinds: Tensor | None,
    ) -> None:
        """Take in images (B, C, H, W) in [0, 1], masks (B, 1, H, W), labels (B,), and ``kinds`` (B,) of the names."""
        start = len(self._rows)
        small = reduced(explanation.score_map.detach(), MAP_SIDE)[:, 0].cpu().numpy()
        truth = None if masks is None else _covered(masks, MAP_SIDE)
        for position in range(len(images)):
            kind = None if kinds is None else int(kinds[position])
            self._rows.append(
                {
                    "score": float(explanation.score[position]),
                    "label": None if labels is None else int(labels[position]),
                    "kind": None if kind is None or not 0 <= kind < len(self.names) else str(self.names[kind]),
                    "scores": {name: float(found.score[position]) for name, found in scored.items()},
                }
            )
            if labels is not None and truth is not None:
                self._curves.append((small[position].astype(np.float32), truth[position]))
        wanted = self._wanted()
        for number in [number for number in self._gallery if number not in wanted]:
            del self._gallery[number]
        for number in sorted(wanted):
            if number >= start:
                self._gallery[number] = _picture(number - start, images, explanation, scored, masks)

    def _wanted(self) -> set[int]:
        order = np.argsort([-row["score"] for row in self._rows], kind="stable").tolist()
        sides = [order] + [[n for n in order if self._rows[n]["label"] == label] for label in (0, 1)]
        return {number for side in sides for number in side[:EXTREMES] + side[-EXTREMES:]}

    def write(self, path: Path) -> None:
        """Write what was kept as one .npz, atomically; nothing where no image came."""
        if not self._rows:
            return
        numbers = sorted(self._gallery)
        entries = [self._gallery[number] for number in numbers]
        latents = self._latents(entries)
        arrays: dict[str, Any] = {"image": np.stack([entry["image"] for entry in entries])}
        for name in ("mask", "reconstruction"):
            if entries[0][name] is not None:
                arrays[name] = np.stack([entry[name] for entry in entries])
        maps = {"score": np.stack([entry["score_map"] for entry in entries])}
        for name in entries[0]["others"]:
            maps[f"other:{name}"] = np.stack([entry["others"][name] for entry in entries])
        for position, latent in latents.items():
            maps[f"latent:{latent}"] = np.stack([entry["maps"][position] for entry in entries])
        ranges = {}
        for name, values in maps.items():
            if name == "score":  # with its own precision: the threshold of the report is compared with it
                arrays[name] = values.astype(np.float32)
            else:
                arrays[name], ranges[name] = to_bytes(values)
        if self._curves:
            chosen = np.unique(np.linspace(0, len(self._curves) - 1, min(len(self._curves), CURVE_IMAGES)).astype(int))
            arrays["curve_maps"] = np.stack([self._curves[number][0] for number in chosen]).astype(np.float32)
            arrays["curve_masks"] = np.stack([self._curves[number][1] for number in chosen])
        about = {
            "score": self.score,
            "method": self.method,
            "rows": self._rows,
            "gallery": numbers,
            "maps": list(maps),
            "ranges": ranges,
        }
        arrays["about"] = np.array(json.dumps(about))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(path, buffer.getvalue())

    def _latents(self, entries: list[dict[str, Any]]) -> dict[int, int]:
        """Return position among the maps -> latent, in the order they are to be shown."""
        targets, kls = len(entries[0]["maps"]), [entry["kl"] for entry in entries]
        known = (
            list(self.latents) if self.latents is not None and len(self.latents) == targets else list(range(targets))
        )
        order = list(range(targets))
        if kls[0] is not None and len(kls[0]) > max(known):
            order = np.argsort(-np.mean(kls, axis=0)[known], kind="stable").tolist()
        return {position: known[position] for position in order[:LATENTS]}


def _picture(
    position: int, images: Tensor, explanation: Explanation, scored: Mapping[str, Scored], masks: Tensor | None
) -> dict[str, Any]:
    one = slice(position, position + 1)

    def small(maps: Tensor) -> Any:
        return reduced(maps[one].detach(), MAP_SIDE)[0].cpu().numpy()

    decoded = explanation.reconstruction
    shown = decoded is not None and decoded.shape[1:] == images.shape[1:]
    return {
        "image": _pixels(images[one]),
        "reconstruction": _pixels(decoded[one]) if shown and decoded is not None else None,
        "mask": None if masks is None else _covered(masks[one], IMAGE_SIDE)[0],
        "score_map": small(explanation.score_map)[0],
        "maps": small(explanation.maps).astype(np.float16 if explanation.maps.abs().max() < 6e4 else np.float32),
        "others": {name: small(found.score_map)[0] for name, found in scored.items() if found.score_map is not None},
        "kl": None if explanation.kl is None else explanation.kl[position].detach().cpu().numpy(),
    }


def reduced(maps: Tensor, side: int) -> Tensor:
    """Return maps (B, T, H, W), made smaller by averaging where a side is longer than ``side``."""
    size = (min(side, maps.shape[-2]), min(side, maps.shape[-1]))
    return maps.float() if tuple(maps.shape[-2:]) == size else F.adaptive_avg_pool2d(maps.float(), size)


def to_bytes(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[float]]:
    """Return values as 0..255 between a low and a high end that are also returned.

    The low end is 0 for values that are not negative, else minus the high end for values of both signs.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    elif low >= 0:
        low = 0.0
    span = high - low if high > low else 1.0
    scaled = np.nan_to_num((values.astype(np.float64) - low) / span)
    return np.round(255 * scaled).clip(0, 255).astype(np.uint8), [low, low + span]


def _covered(masks: Tensor, side: int) -> np.ndarray[Any, Any]:
    # a region smaller than half a cell would vanish: the cells that it covers most stay
    share = reduced((masks.detach() > 0.5).float(), side)[:, 0]
    top = share.amax(dim=(-2, -1), keepdim=True)
    covered: np.ndarray[Any, Any] = ((share >= torch.minimum(top, torch.tensor(0.5))) & (share > 0)).cpu().numpy()
    return covered


def _pixels(images: Tensor) -> np.ndarray[Any, Any]:
    small = reduced(images.detach(), IMAGE_SIDE)[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    colours = np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small[..., :3]
    found: np.ndarray[Any, Any] = np.round(255 * colours).astype(np.uint8)
    return found
