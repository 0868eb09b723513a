"""What a test leaves for the report: every image's score, small maps for curves, and a gallery of extreme images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vaex.attention import Target
from vaex.attention.targets import target_named
from vaex.callbacks.kept_arrays import IMAGE_SIDE, MAP_SIDE, covered, reduced, small_image, to_bytes
from vaex.callbacks.kept_methods import Draw, Normal, further_methods, maps_of_methods, method_title
from vaex.modules.batches import entry, images_of
from vaex.objectives.gathering import processes
from vaex.runs import write_atomic
from vaex.scores import Scored
from vaex.types import Explanation

CURVE_IMAGES = 512
"""Most images whose score map and mask are kept for the curves; of more an even selection."""

EXTREMES = 8
"""Images kept from each end of the order: of all, of the normal and of the anomalous ones."""

LATENTS = 10
"""Most latents whose maps are kept: those of highest mean KL divergence."""


class KeptTest:
    """Takes in a test batch by batch; `write` keeps a few megabytes of it. Each process keeps its own share."""

    def __init__(
        self,
        score: str,
        options: Mapping[str, Any] | None = None,
        judged: bool = True,
        names: Sequence[str] = (),
        methods: Sequence[Any] = (),
    ) -> None:
        """``options``: of `latent_attention`; ``names``: of kinds; not ``judged``: labels mean something else.

        ``methods`` are drawn of the gallery at the end, beside the one of ``options``.

        Raises:
            VaexError: for an unknown method.
        """
        given = options or {}
        own = given.get("method", "grad_cam")
        self.method, self.methods = method_title(own), further_methods(methods, own)
        target = target_named(given.get("target", "mean"))
        self.of_latents = isinstance(target, Target) and not (target.total or target.single)
        self.score, self.latents, self.judged, self.names = score, given.get("latents"), judged, names
        self._rows: list[dict[str, Any]] = []
        self._curves: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._gallery: dict[int, dict[str, Any]] = {}

    def take(self, batch: Any, explanation: Explanation, scored: Mapping[str, Scored]) -> None:
        """Take in a batch of a data loader with its explanation and other scores."""
        labels = entry(batch, "label") if self.judged else None
        masks, kinds, whole = (entry(batch, key) for key in ("mask", "group", "image_of"))
        self.update(images_of(batch), explanation, scored, labels, masks, kinds, whole)

    def update(
        self,
        images: Tensor,
        explanation: Explanation,
        scored: Mapping[str, Scored],
        labels: Tensor | None,
        masks: Tensor | None,
        kinds: Tensor | None,
        image_of: Tensor | None = None,
    ) -> None:
        """Take in images (B, C, H, W) in [0, 1], masks (B, 1, H, W), labels (B,), and ``kinds`` (B,) of the names.

        ``image_of`` (B,) says of which image each tile is, where images are cut.
        """
        start = len(self._rows)
        small = reduced(explanation.score_map.detach(), MAP_SIDE)[:, 0].cpu().numpy()
        truth = None if masks is None else covered(masks, MAP_SIDE)
        for position in range(len(images)):
            kind = None if kinds is None else int(kinds[position])
            self._rows.append(
                {
                    "score": float(explanation.score[position]),
                    "label": None if labels is None else int(labels[position]),
                    "kind": None if kind is None or not 0 <= kind < len(self.names) else str(self.names[kind]),
                    "image_of": None if image_of is None else int(image_of[position]),
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
                entry = _picture(number - start, images, explanation, scored, masks)
                if self.methods:
                    entry["pixels"] = images[number - start][None].detach().cpu().clone()
                self._gallery[number] = entry

    def _wanted(self) -> set[int]:
        order = np.argsort([-row["score"] for row in self._rows], kind="stable").tolist()
        sides = [order] + [[n for n in order if self._rows[n]["label"] == label] for label in (0, 1)]
        return {number for side in sides for number in side[:EXTREMES] + side[-EXTREMES:]}

    def write(self, path: Path, draw: Draw | None = None, normal: Normal | None = None) -> None:
        """Write what was kept as one .npz, atomically; nothing where no image came.

        ``draw`` makes the maps of further methods; ``normal`` is what held-out normal images score.
        """
        if not self._rows:
            return
        numbers = sorted(self._gallery)
        entries = [self._gallery[number] for number in numbers]
        arrays: dict[str, Any] = {"image": np.stack([entry["image"] for entry in entries])}
        for name in ("mask", "reconstruction"):
            if entries[0][name] is not None:
                arrays[name] = np.stack([entry[name] for entry in entries])
        # with its own precision: the threshold of the report is compared with it
        arrays["score"] = np.stack([entry["score_map"] for entry in entries]).astype(np.float32)
        maps = {
            f"other:{name}": np.stack([entry["others"][name] for entry in entries]) for name in entries[0]["others"]
        }
        latents, kind = self._latents(entries), "latent" if self.of_latents else "total"
        for position, latent in latents.items():
            maps[f"{kind}:{latent}"] = np.stack([entry["maps"][position] for entry in entries])
        drawn = self._further(entries, latents, draw)
        for place, values in enumerate(drawn.values(), 1):
            for column, latent in enumerate(latents.values()):
                maps[f"{kind}:{latent}@{place}"] = values[:, column]
        ranges = {}
        for name, values in maps.items():
            arrays[name], ranges[name] = to_bytes(values)
        if self._curves:
            chosen = np.unique(np.linspace(0, len(self._curves) - 1, min(len(self._curves), CURVE_IMAGES)).astype(int))
            arrays["curve_maps"] = np.stack([self._curves[number][0] for number in chosen]).astype(np.float32)
            arrays["curve_masks"] = np.stack([self._curves[number][1] for number in chosen])
        about = {
            "score": self.score,
            "method": self.method,
            "methods": [self.method, *drawn],
            "rows": self._rows,
            "processes": processes(),
            "gallery": numbers,
            "maps": ["score", *maps],
            "ranges": ranges,
            "normal": None if normal is None or not self.judged else normal._asdict(),
        }
        arrays["about"] = np.array(json.dumps(about))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(path, buffer.getvalue())

    def _further(
        self, entries: list[dict[str, Any]], latents: dict[int, int], draw: Draw | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        if draw is None or not self.methods:
            return {}
        wanted = list(latents.values()) if self.of_latents else self.latents
        columns = list(range(len(latents))) if self.of_latents else list(latents)
        return maps_of_methods(self.methods, draw, [entry["pixels"] for entry in entries], wanted, columns)

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
        "image": small_image(images[one]),
        "reconstruction": small_image(decoded[one]) if shown and decoded is not None else None,
        "mask": None if masks is None else covered(masks[one], IMAGE_SIDE)[0],
        "score_map": small(explanation.score_map)[0],
        "maps": small(explanation.maps).astype(np.float16 if explanation.maps.abs().max() < 6e4 else np.float32),
        "others": {name: small(found.score_map)[0] for name, found in scored.items() if found.score_map is not None},
        "kl": None if explanation.kl is None else explanation.kl[position].detach().cpu().numpy(),
    }
