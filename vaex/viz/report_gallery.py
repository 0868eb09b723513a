"""The gallery of a report: what its script needs of every image, in one packed block."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.intake import one_line
from vaex.viz.grid import SCORE_COLOURS
from vaex.viz.overlays import lookup_table

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class GalleryMap:
    """One map of every image: (G, h, w) bytes between ``low`` and ``high``; the threshold acts on one of them."""

    title: str
    values: Bytes
    low: float
    high: float
    group: str = "Score maps"
    unit: str = "score"
    threshold: bool = False
    method: str | None = None  # of maps that several methods give under one title


@dataclass(frozen=True)
class GalleryItem:
    """One image: its name, score, label (None: unknown), kind, and why it is a failure, with its rank, worst first."""

    name: str
    score: float
    label: int | None = None
    kind: str | None = None
    failure: tuple[int, str] | None = None


@dataclass(frozen=True)
class Gallery:
    """G images (G, H, W, 3), masks (G, H, W), reconstructions, and maps; ``levels`` (G, h, w) meet the thresholds."""

    items: Sequence[GalleryItem]
    images: Bytes
    maps: Sequence[GalleryMap]
    total: int
    masks: NDArray[np.bool_] | None = None
    reconstructions: Bytes | None = None
    levels: Bytes | None = None
    called: str = "images"  # what the items are

    @property
    def methods(self) -> list[str]:
        """The methods of its maps, in order."""
        return list(dict.fromkeys(one.method for one in self.maps if one.method is not None))


def encoded(array: NDArray[Any]) -> str:
    """Return the bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).decode()


def colour_tables() -> dict[str, str]:
    """Return the 256 colours of attention, score maps and signed maps as bytes in base64; those of all pictures."""
    tables = {
        "attention": lookup_table(None, False),
        "score": lookup_table(SCORE_COLOURS, False),
        "diverging": lookup_table(None, True),
    }
    return {name: encoded(np.round(255 * colours)) for name, colours in tables.items()}


def gallery_data(gallery: Gallery) -> dict[str, Any]:
    """Return the gallery as plain values for the script.

    All arrays lie in one block of bytes, ``packed`` (zlib, base64): neighbours are alike, so that it is a few times
    smaller than they are. ``parts`` says where each begins and how many bytes an image of it has.
    """
    items = []
    for item in gallery.items:
        failure = None if item.failure is None else {"rank": item.failure[0], "why": item.failure[1]}
        kind = None if item.kind is None else one_line(item.kind)
        items.append({"name": item.name, "score": item.score, "label": item.label, "kind": kind, "failure": failure})
    maps: list[dict[str, Any]] = [
        {name: getattr(one, name) for name in ("low", "high", "unit", "group", "threshold", "method")}
        | {"title": one_line(one.title)}
        for one in gallery.maps
    ]
    given = {
        "image": gallery.images,
        "mask": gallery.masks,
        "reconstruction": gallery.reconstructions,
        "levels": gallery.levels,
        **{f"map{position}": one.values for position, one in enumerate(gallery.maps)},
    }
    parts, block = {}, b""
    for name, array in given.items():
        if array is not None:
            parts[name] = {"start": len(block), "size": int(np.prod(array.shape[1:]))}
            block += np.ascontiguousarray(array, dtype=np.uint8).tobytes()
    return {
        "items": items,
        "maps": maps,
        "total": gallery.total,
        "called": gallery.called,
        "packed": base64.b64encode(zlib.compress(block, 9)).decode(),
        "parts": parts,
        "map_size": list(gallery.maps[0].values.shape[1:]),
        "image_size": list(gallery.images.shape[1:3]),
    }
