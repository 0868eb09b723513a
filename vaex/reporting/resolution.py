"""At how many pixels maps and masks were compared: it belongs beside every number that counts pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PIXEL_MEASURES = ("pixel_auroc", "pixel_ap", "aupro", "aupimo", "best_iou", "f1_max")
"""How the names of measures of pixels begin."""


def counts_pixels(name: str) -> bool:
    """Return whether a measure such as ``aupro_005_padim/cut`` counts pixels."""
    return any(name == measure or name.startswith((f"{measure}_", f"{measure}/")) for measure in PIXEL_MEASURES)


def resolution_of(config: Mapping[str, Any]) -> int | None:
    """Return the pixels a side that a run's flat ``config`` states: ``metrics.resolution``, else the images' size."""
    side = config.get("metrics.resolution") or config.get("data.size")
    return side if type(side) is int else None


def resolution_sentence(sides: Iterable[tuple[str, int | None]]) -> str:
    """Return in words at how many pixels the runs of each name were compared; empty where none says so."""
    names: dict[int, list[str]] = {}
    for name, side in sides:
        if side is not None:
            names.setdefault(side, []).append(name)
    if not names:
        return ""
    if len(names) == 1:
        return f"Maps and masks are compared at {next(iter(names))} pixels a side."
    each = (f"at {side} ({_listed(names[side])})" for side in sorted(names))
    return f"Maps and masks are compared at different numbers of pixels a side: {', '.join(each)}."


def _listed(names: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(names))


def measured_at(side: int | None, names: Iterable[str]) -> str:
    """Return the sentence for the measures of one run, empty where none of ``names`` counts pixels."""
    return resolution_sentence([("", side)]) if any(map(counts_pixels, names)) else ""
