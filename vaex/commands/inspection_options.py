"""The options of an inspection, checked before a model is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from vaex.errors import VaexError, unknown

PICTURES = ("true", "anomalous", "false")


def check_inspection(config: DictConfig) -> None:
    """Check the options of an inspection that need no model.

    Raises:
        VaexError: for one out of range.
    """
    from vaex.data.tiling import check_tile
    from vaex.scores.regions import check_box
    from vaex.scores.thresholds import PIXEL_RATES, check_rate

    check_rate(config.false_alarm_rate)
    if str(config.pictures).lower() not in PICTURES:
        raise unknown("choice of pictures", str(config.pictures), PICTURES)
    for key in ("threshold", "pixel_threshold"):
        if config[key] is not None and not _number(config[key]):
            raise VaexError(f"{key} must be a number or null, got {config[key]}.")
    if not _number(config.min_area) or not config.min_area >= 0:
        raise VaexError(f"min_area must be a number of pixels, 0 or more, got {config.min_area}.")
    if config.pixel_rate not in PIXEL_RATES:
        raise VaexError(f"pixel_rate must be one of {', '.join(map(str, PIXEL_RATES))}, got {config.pixel_rate}.")
    if config.tile is not None:
        check_tile(config.tile, config.overlap)
    if isinstance(config.roi, ListConfig):
        check_box(list(config.roi))
    elif config.roi is not None and not Path(str(config.roi)).expanduser().is_file():
        raise VaexError(
            f"roi must be [x0,y0,x1,y1] in pixels of the image, or the file of a mask; no file {config.roi}."
        )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
