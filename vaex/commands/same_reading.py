"""Are images read and cut as the normal images were that thresholds are of?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from vaex.commands.sources import white_of
from vaex.errors import VaexError

if TYPE_CHECKING:
    from vaex.scores.score import Score


def check_white(data: Any, calibration: Mapping[str, Any], score: Score) -> None:
    """Refuse thresholds of normal images that were read with another ``data.white`` than by the config ``data``.

    Raises:
        VaexError: then; a calibration by images that have none, such as drawn ones, is of any.
    """
    if "white" not in calibration or (now := white_of(data)) == calibration["white"]:
        return
    before, after = (f"{value:g}" if value is not None else "null" for value in (calibration["white"], now))
    raise VaexError(
        f"the normal images were read with data.white={before}, these are with {after}; give the same, run "
        f"`vaex calibrate ckpt=... score={score.name} data.white={after}`, or give threshold=NUMBER."
    )


def cut_once(config: DictConfig) -> list[str]:
    """Let ``tile`` be off for images of a test set that are tiles already, and say where it is that of the data.

    Raises:
        VaexError: when these are to be cut otherwise.
    """
    own = config.data.get("tile")
    if own is not None and config.get("test_images") is not None:
        if config.tile not in (None, own):
            raise VaexError(
                f"test_images= are tiles of {own} pixels already (data.tile), which tile={config.tile} would cut "
                "again; leave tile out, or name files with images=."
            )
        config.tile = None
    if own is None or (config.tile, config.overlap) != (own, config.data.get("overlap")):
        return []
    return [
        f"Images are scored in tiles of {config.tile} pixels that share {config.overlap}, as the model saw them in "
        "training; tile=null scores them whole."
    ]


def tiles_now(config: DictConfig) -> dict[str, Any] | None:
    """Return by which tiles images are scored, None for whole ones; images of a test set may be tiles themselves."""
    given = config if config.tile is not None else config.get("data") if config.get("test_images") is not None else None
    return None if not given or given.get("tile") is None else {key: given[key] for key in ("tile", "overlap")}


def check_tiles(now: Mapping[str, Any] | None, calibration: Mapping[str, Any]) -> None:
    """Refuse thresholds of whole images in tiles for images that are scored in others, or in none.

    Raises:
        VaexError: then; thresholds of images that were no tiles are those of a tile that is scored as they were.
    """
    if (before := calibration.get("tiles")) is None or now == before:
        return
    told = f"tile={before['tile']} overlap={before['overlap']}"
    these = f"with tile={now['tile']} overlap={now['overlap']}" if now else "whole"
    raise VaexError(
        f"the thresholds are of images scored with {told}, these are scored {these}; give {told}, run `vaex calibrate "
        "ckpt=...` with other tiles (data.tile, data.overlap), or give threshold=NUMBER."
    )
