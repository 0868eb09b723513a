"""One attention map laid over one image, so that both stay readable."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from vaex.errors import VaexError, unknown

Pixels = NDArray[np.uint8]
"""An RGB picture, (H, W, 3) in 0..255."""

Array = NDArray[Any]
"""Numbers of any type; what is expected of them is checked."""

SEQUENTIAL = ("inferno", "magma", "plasma", "viridis", "cividis")
"""Colour maps for maps >= 0, first the default: perceptually uniform, and safe for colour-blind readers."""

DIVERGING = ("coolwarm", "PuOr_r", "RdBu_r", "vanimo", "berlin")
"""Colour maps for signed maps, first the default: symmetric about 0, and safe for colour-blind readers."""

GREY_RANGE = (0.12, 0.85)
"""Black and white of the grey image under the colours: weak attention shows on black, and bright colours on white."""

OPACITY = 0.75
"""How much of the image the strongest colour hides."""

DARKEST = 0.2
"""Where the sequential colour maps begin: their darkest fifth cannot be told from the image's own shadows."""


def overlay(
    image: Array,
    map: Array,  # noqa: A002 - a map is a map everywhere in vaex
    *,
    vmax: float | None = None,
    opacity: float = OPACITY,
    colormap: str | None = None,
    signed: bool = False,
) -> Pixels:
    """Return the image in grey, a little pale, under the map in colour: (H, W, 3) uint8.

    ``image`` (H, W), (H, W, 1) or (H, W, 3) float in [0, 1], clipped. ``map`` (H, W), not negative unless ``signed``.
    ``vmax`` is the map value of full colour, larger ones are cut; give one to all maps that are to be compared; None:
    the map's own maximum. ``opacity`` in [0, 1] is reached at ``vmax`` and falls to 0 with the square root of the
    value, so where the map is 0 the image shows through. ``colormap`` is one of `SEQUENTIAL` or, ``signed``, of
    `DIVERGING`, whose middle is 0 and whose ends are -``vmax`` and ``vmax``.

    Raises:
        VaexError: shapes do not fit, a value is not finite, a map is negative but not ``signed``, or an option is out
            of its range.
    """
    image, map = np.asarray(image), np.asarray(map)  # noqa: A001
    check_map(map, signed)
    if image.shape[:2] != map.shape or image.ndim > 3 or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise VaexError(
            f"An overlay needs an image (H, W), (H, W, 1) or (H, W, 3) and a map (H, W) of the same size, got "
            f"{image.shape} and {map.shape}: resize the map first."
        )
    if not 0 <= opacity <= 1:
        raise VaexError(f"The opacity of an overlay lies in [0, 1], got {opacity}.")
    level = np.clip(map.astype(np.float64) / scale_of(map, vmax), -1, 1)
    return to_uint8(blend(grey(image), level, opacity, lookup_table(colormap, signed), signed))


def blend(
    grey: NDArray[np.float64], level: NDArray[np.float64], opacity: float, colours: NDArray[np.float64], signed: bool
) -> NDArray[np.float64]:
    """Return the colours of ``level`` over ``grey``, both of one shape: that shape and (3,), in [0, 1]."""
    position = (level + 1) / 2 if signed else level
    colour = colours[np.rint(position * 255).astype(np.intp)]
    alpha = opacity * np.sqrt(np.abs(level))[..., None]
    dark, bright = GREY_RANGE
    return (1 - alpha) * (dark + (bright - dark) * grey[..., None]) + alpha * colour


def check_map(map: Array, signed: bool) -> None:  # noqa: A002
    """Refuse maps that hold NaN or infinity, or that are negative without being ``signed``."""
    if broken := int((~np.isfinite(map)).sum()):
        raise VaexError(
            f"{broken} of {map.size} values of a map are NaN or infinite and have no colour: look for a diverged model."
        )
    if not signed and map.size and map.min() < 0:
        raise VaexError(
            f"A map has negative values, down to {map.min():.3g}: pass signed=True for a diverging colour map, or "
            "rectify it."
        )


def scale_of(map: Array, vmax: float | None) -> float:  # noqa: A002
    """Return the value of full colour: ``vmax``, else the largest magnitude, else 1 where all is zero."""
    if vmax is not None and not 0 < vmax < np.inf:
        raise VaexError(f"The colour scale must end at a number above 0, got vmax={vmax}: leave it out to find it.")
    top = float(np.abs(map).max(initial=0)) if vmax is None else float(vmax)
    return top if top > np.finfo(np.float32).tiny else 1.0


@functools.lru_cache
def lookup_table(colormap: str | None, signed: bool) -> NDArray[np.float64]:
    """Return the 256 colours of a map, (256, 3) in [0, 1]."""
    valid = DIVERGING if signed else SEQUENTIAL
    colormap = valid[0] if colormap is None else colormap
    if colormap not in valid:
        raise unknown(f"{'diverging' if signed else 'sequential'} colour map", colormap, valid)
    return np.asarray(colormaps[colormap](np.linspace(0 if signed else DARKEST, 1, 256)), dtype=np.float64)[:, :3]


def grey(image: Array) -> NDArray[np.float64]:
    """Return the brightness of an image (H, W[, 1 or 3]) as (H, W) in [0, 1].

    Source: ITU-R BT.601 weights of red, green and blue.
    """
    values = unit(image)
    if values.ndim == 2:
        return values
    return values[..., 0] if values.shape[2] == 1 else values @ np.array([0.299, 0.587, 0.114])


def unit(image: Array) -> NDArray[np.float64]:
    """Return the image as float64 clipped to [0, 1].

    Raises:
        VaexError: a value is NaN, or the image is of integers.
    """
    if not np.issubdtype(image.dtype, np.floating):
        raise VaexError(f"An image must be float in [0, 1], got {image.dtype}: divide 8-bit images by 255.")
    if missing := int(np.isnan(image).sum()):
        raise VaexError(f"{missing} of {image.size} values of an image are NaN: look for a diverged model.")
    return np.clip(image.astype(np.float64), 0, 1)


def to_uint8(image: Array) -> NDArray[np.uint8]:
    """Return values in [0, 1] as 0..255, rounded."""
    return np.rint(unit(image) * 255).astype(np.uint8)
