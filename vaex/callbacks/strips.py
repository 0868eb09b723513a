"""One image, its score map and its latents' maps side by side, with the ground truth as a layer of its own (wandb)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from torch import Tensor

from vaex.callbacks.pictures import logged_step
from vaex.types import Explanation

TRUTH = {0: "background", 1: "ground truth"}
"""Names of the values of a mask."""

PANEL = 128
"""Pixels that a panel has at least in height and width; smaller images are enlarged by a whole factor."""


class Strip(NamedTuple):
    """A picture for wandb."""

    pixels: NDArray[np.uint8]  # (h, n w, 3) the image, its score map, then the maps of latents
    mask: NDArray[np.uint8] | None  # (h, n w) 0 or 1, the ground truth over every panel; None where there is none
    caption: str


def strip_of(
    image: Tensor, explanation: Explanation, mask: Tensor | None, columns: Sequence[int], titles: Sequence[str]
) -> Strip:
    """Return the strip of one ``image`` (C, H, W), whose ``explanation`` has B = 1; ``mask`` is (1, H, W).

    ``columns`` are positions among its maps, ``titles`` their names.
    """
    from vaex.viz import overlay  # matplotlib only when drawn
    from vaex.viz.tiles import resize, to_tiles

    tile = to_tiles(_array(image)[None], "image")[0]  # (H, W, 3)
    ground = tile.astype(np.float64) / 255
    maps = [explanation.score_map[0, 0].clamp(min=0), *explanation.maps[0, list(columns)]]
    panels = [tile, *(overlay(ground, _array(found), signed=bool((found < 0).any())) for found in maps)]
    factor = max(1, PANEL // min(tile.shape[:2]))
    pixels = np.concatenate(panels, axis=1)
    size = (pixels.shape[0] * factor, pixels.shape[1] * factor)
    truth = None if mask is None else np.tile((_array(mask)[0] > 0.5).astype(np.uint8), (1, len(panels)))
    caption = f"image | score {float(explanation.score[0]):.4g} | " + " | ".join(titles)
    return Strip(resize(pixels, size), None if truth is None else resize(truth, size), caption)


def wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Return the loggers that take pictures with masks, and tables of them."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def log_strips(
    trainer: pl.Trainer,
    key: str,
    images: Tensor,
    explanation: Explanation,
    masks: Tensor | None,
    columns: Sequence[int],
    titles: Sequence[str],
) -> None:
    """Send each of ``images`` (B, C, H, W) to wandb as a strip whose ground truth can be switched on and off."""
    loggers = wandb_loggers(trainer)
    if not loggers:
        return
    strips = [
        strip_of(image, explanation.image(n), None if masks is None else masks[n], columns, titles)
        for n, image in enumerate(images)
    ]
    pixels, captions = [strip.pixels for strip in strips], [strip.caption for strip in strips]
    for logger in loggers:
        layers = [_layers(strip) for strip in strips]
        logger.log_image(key=key, images=pixels, step=logged_step(trainer), caption=captions, masks=layers)


def wandb_image(strip: Strip) -> Any:
    """Return the strip as a cell of a wandb table."""
    import wandb

    classes = [{"id": number, "name": name} for number, name in TRUTH.items()]
    masks: Any = _layers(strip)
    return wandb.Image(strip.pixels, caption=strip.caption, masks=masks, classes=classes if masks else None)


def _layers(strip: Strip) -> dict[str, dict[str, Any]] | None:
    return None if strip.mask is None else {"ground_truth": {"mask_data": strip.mask, "class_labels": TRUTH}}


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().float().cpu().numpy()
    return array
