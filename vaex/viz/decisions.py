"""The picture of a decision: the image under its score map, with a box around every region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vaex.viz.overlays import Array, Pixels, overlay
from vaex.viz.tiles import in_blocks

LONGEST = 1024
"""Pixels of the longer side, at most."""

BOX = (64, 224, 255)
"""Colour of the boxes: none of the score map's."""


def decision_picture(
    image: Array,
    score_map: Array,
    boxes: Sequence[Sequence[int]] = (),
    size: tuple[int, int] | None = None,
    vmax: float | None = None,
) -> Pixels:
    """Return the image under its score map with ``boxes`` (x0, y0, x1, y1), (H, W, 3) uint8.

    ``image`` (H, W, 1 or 3) float in [0, 1] and ``score_map`` (H, W) have one size; values below 0 and such that are
    no number are drawn as 0. ``size`` is (width, height) of the original, in whose proportions the picture and in
    whose pixels the boxes are; by default that of the image. ``vmax`` is the value of full colour, None for the map's
    own maximum.
    """
    height, width = score_map.shape
    own = (width, height) if size is None else size
    shrink = min(LONGEST / max(own), 1.0)
    shown = (max(round(own[0] * shrink), 1), max(round(own[1] * shrink), 1))
    values = np.nan_to_num(np.clip(score_map, 0, None), nan=0.0, posinf=0.0)
    if vmax is None:
        vmax = float(values.max(initial=0)) or None
    step = -(-max(height, width) // LONGEST)
    if step > 1:  # before the colours, which take ten times the memory; of the map the peaks are kept
        small = -(-height // step), -(-width // step)
        image = in_blocks(image, small, np.add) / in_blocks(np.ones_like(image), small, np.add)
        values = in_blocks(values, small, np.maximum)
    picture = Image.fromarray(overlay(image, values, vmax=vmax))
    if picture.size != shown:
        picture = picture.resize(shown, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    across, down = shown[0] / own[0], shown[1] / own[1]
    for x0, y0, x1, y1 in boxes:
        left, top = int(x0 * across), int(y0 * down)
        right, bottom = max(int(x1 * across) - 1, left), max(int(y1 * down) - 1, top)
        pen.rectangle((left, top, right, bottom), outline=BOX, width=max(round(max(shown) / 256), 1))
    return np.asarray(picture).copy()
