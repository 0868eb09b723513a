"""Which pixels of a mask file are marked: white ones, numbered regions, classes of a palette."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SOFT = 0.25
"""Share of dim pixels between a darker and a brighter neighbour from which on they are edges and no regions.

In class maps it is about 0; where masks were smoothed, enlarged or stored as JPEG once, 0.3 and more.
"""


def marked_pixels(image: Image.Image, flat: Image.Image, lossy: bool = False) -> NDArray[np.bool_]:
    """Return which pixels (H, W) of a mask are marked; ``flat`` is ``image`` with what is transparent on black.

    Every value but 0 is marked where dim ones, below half of the brightness that the format can hold, are regions of
    their own: class maps, and files of dim values alone. Where most dim ones lie along soft edges of bright regions,
    and in ``lossy`` files, marked is what has at least half of the brightness. That of a colour is its brightest
    channel. In a palette of colours index 0 is not marked, whatever its colour, and every other one is.

    Raises:
        ValueError: when index 0 of a palette is in use and a colour, and black another index.
    """
    if image.mode == "P" and not image.has_transparency_data:
        background = _background(image)
        if background is not None:
            return ~np.isin(np.asarray(image), background)
    if wide(image):
        values, top = np.asarray(image, dtype=np.float32), 1.0 if image.mode == "F" else 65535.0
    else:
        grey = flat.mode in ("1", "L")
        values = np.asarray(flat.convert("L" if grey else "RGB"), dtype=np.float32)
        values, top = values if grey else values.max(axis=-1), 255.0
    bright = values >= top / 2
    dim = (values > 0) & ~bright
    if lossy or (bright.any() and _soft(values, dim)):
        return bright
    return bright | dim


def resized_mask(marked: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a mask (1, H, W) of 0 and 1 at ``size`` (h, w), by area.

    A pixel of the result is 1 when more than half of it is marked; where nothing would be left, those most covered.
    """
    if marked.shape[1:] != size:
        area = Image.fromarray(marked[0].astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
        share = np.asarray(area, dtype=np.float32)
        most = float(share.max())
        marked = share[None] > (0.5 if most > 0.5 else most / 2)
    return marked.astype(np.uint8)


def wide(image: Image.Image) -> bool:
    """Return whether an image holds greys wider than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _background(image: Image.Image) -> list[int] | None:
    """Return the indices of a palette that are not marked; None where it holds the greys of a grey image."""
    used = np.unique(np.asarray(image))
    table = np.zeros((256, 3), dtype=np.uint8)
    palette = np.asarray(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    table[: len(palette)] = palette
    colours = table[used]
    black = ~colours.any(axis=1)
    if (colours == colours[:, :1]).all() and (black.sum() == 1 or len(used) == 1):
        return None
    if used[0] != 0:  # written without an index 0, as some programs do that collect colours
        return list(used[black].tolist())
    if not black[0] and black.any():
        raise ValueError(
            "index 0 of its palette is a colour and another one black: which is the background? Save greys"
        )
    return [0]


def _soft(values: NDArray[np.float32], dim: NDArray[np.bool_]) -> bool:
    if not dim.any():
        return False
    from scipy import ndimage

    lowest, highest = (f(values, 3, mode="nearest") for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    between = dim & (lowest < values) & (values < highest)
    return bool(between.sum() > SOFT * dim.sum())
