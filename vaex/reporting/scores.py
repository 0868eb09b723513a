"""Names of measures that tell a score, and what a run's config says of its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MEASURES = (
    *("pixel_auroc", "pixel_ap", "aupro", "aupro_005", "aupimo", "best_iou", "f1_max", "f1_max_threshold"),
    *("image_auroc", "image_ap"),
)
"""Measures that every score has its own of, as ``<measure>_<score>``."""


def scored_measure(name: str) -> tuple[str, str] | None:
    """Return (measure, score) of a name such as ``aupro_005_padim``; None for any other name."""
    if name in MEASURES:
        return None
    found = max((measure for measure in MEASURES if name.startswith(f"{measure}_")), key=len, default=None)
    return None if found is None else (found, name.removeprefix(f"{found}_"))


def chosen_score(config: Mapping[str, Any]) -> str | None:
    """Return the name that a run's own score is measured under."""
    found = config.get("score.label") or config.get("score.name")
    return None if found is None else str(found)


def scores_listed(config: Mapping[str, Any]) -> set[str] | None:
    """Return the names that a flat config's scores are measured under; None where it does not list them."""
    listed, chosen = config.get("metrics.scores"), chosen_score(config)
    if not isinstance(listed, list):
        return None
    names = [item.get("label") or item.get("name") if isinstance(item, Mapping) else item for item in listed]
    return {str(name) for name in (*names, chosen) if name is not None}


def without_phantoms(values: Mapping[str, float], config: Mapping[str, Any]) -> dict[str, float]:
    """Return measures of a run without those of scores that never were.

    Earlier versions wrote ``aupro_untrained`` where ``aupro_untrained_attention`` was measured beside
    ``aupro_attention`` of the deciding score.
    """
    listed, chosen = scores_listed(config), chosen_score(config)

    def is_phantom(name: str) -> bool:
        pair, whole = scored_measure(name), values.get(f"{name}_{chosen}")
        if listed is None or pair is None or whole is None or pair[1] in listed:
            return False
        return f"{pair[1]}_{chosen}" in listed and (values[name] == whole or math.isnan(values[name] + whole))

    return {name: value for name, value in values.items() if not is_phantom(name)}
