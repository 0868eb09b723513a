"""Which images a network takes, as plain numbers: asked before anything is built. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaex.errors import VaexError

FIXED_SHAPES: dict[str, tuple[int | None, int, int]] = {"mnist": (1, 28, 28), "factor_vae": (None, 64, 64)}
"""Images (C, H, W) of the networks that take one size only; None for any number of channels."""

CONV_SIZES = (32, 256)
"""Smallest and largest side, in pixels, of the square images of the conv network."""

RESNET_SIZES = (64, 256)
"""The same of resnet18, which halves the cells five times: a side is a multiple of 32."""


def in_words(shape: Sequence[int | None]) -> str:
    """Return (C, H, W) as text such as 1x28x28; C for any number of channels."""
    return "x".join("C" if side is None else str(side) for side in shape)


def check_shape(name: str, shape: Any, depth: Any = None) -> tuple[int, int, int]:
    """Return ``shape`` as (C, H, W) if the network ``name`` takes such images, conv with ``depth`` stride-2 stages.

    A ``depth`` of None is not checked.

    Raises:
        VaexError: when the shape is none or does not fit the network, or the depth does not fit the shape.
    """
    sizes = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else []
    if len(sizes) != 3 or not all(_whole(size) and size > 0 for size in sizes):
        raise VaexError(
            f"network={name} needs network.shape, [channels, height, width] in whole numbers of at least 1, "
            f"got {shape!r}."
        )
    channels, height, width = sizes
    fixed = FIXED_SHAPES.get(name)
    if fixed and any(want not in (None, size) for want, size in zip(fixed, sizes, strict=True)):
        raise VaexError(
            f"network={name} takes images of {in_words(fixed)} only, got {in_words(sizes)}; "
            "choose network=conv or other data."
        )
    if name == "conv":
        _check_conv(channels, height, width, depth)
    if name == "resnet18":
        _check_resnet(channels, height, width)
    return channels, height, width


def _check_conv(channels: int, height: int, width: int, depth: Any) -> None:
    low, high = CONV_SIZES
    if height != width or not low <= height <= high:
        mnist = (channels, height, width) == FIXED_SHAPES["mnist"]
        raise VaexError(
            f"network=conv takes square images of {low} to {high} pixels, got {in_words((channels, height, width))}; "
            + ("choose network=mnist." if mnist else "set data.size in this range.")
        )
    deepest = height.bit_length() - 1
    if depth is not None and not (_whole(depth) and 1 <= depth <= deepest):
        raise VaexError(f"network.depth must be a whole number from 1 to {deepest} for {height} pixels, got {depth!r}.")


def _check_resnet(channels: int, height: int, width: int) -> None:
    low, high = RESNET_SIZES
    if height != width or not low <= height <= high or height % 32 or channels not in (1, 3):
        raise VaexError(
            f"network=resnet18 takes square images of {low} to {high} pixels, a multiple of 32, in 1 or 3 channels, "
            f"got {in_words((channels, height, width))}; choose network=conv or another size of the data."
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
