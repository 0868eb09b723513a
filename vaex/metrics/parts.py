"""Images that are measured in parts, such as tiles: an image scores as its highest part and is anomalous by one."""

from __future__ import annotations

import torch
from torch import Tensor

from vaex.errors import VaexError


def highest_of(values: Tensor, image_of: Tensor) -> Tensor:
    """Return the highest ``values`` (N, ...) of the parts of each image; ``image_of`` (N,) says of which each is.

    Images come in the order of their numbers.
    """
    numbers, whose = image_of.to(values.device).unique(return_inverse=True)
    index = whose.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
    start = values.new_zeros((len(numbers), *values.shape[1:]))
    return start.scatter_reduce(0, index, values, "amax", include_self=False)


def checked_numbers(images: Tensor | None, count: int, seen: int, numbered: int) -> Tensor:
    """Return ``images`` (B,), of which image each of ``count`` parts is, as int64; empty where it is None.

    ``seen`` parts came before, of ``numbered`` of which it was said.

    Raises:
        VaexError: they are not (B,) whole numbers, or were given of some parts alone.
    """
    if images is not None and (images.shape != (count,) or images.is_floating_point() or images.is_complex()):
        raise VaexError(
            f"images must be ({count},) whole numbers, of which image each map or score is a part, got "
            f"{tuple(images.shape)} of {images.dtype}."
        )
    if count and seen and (images is None) != (numbered == 0):
        raise mixed(seen + count, numbered + (0 if images is None else count))
    return torch.empty(0, dtype=torch.int64) if images is None else images.detach().to(torch.int64)


def mixed(seen: int, numbered: int) -> VaexError:
    """Return the error of ``seen`` parts of which only ``numbered`` have an image."""
    return VaexError(
        f"Of {numbered} of {seen} maps or scores it was said of which image they are a part (images=), of the others "
        "not: give images in every update, or in none."
    )


def of_images(values: Tensor, numbers: Tensor) -> Tensor:
    """Return the highest ``values`` (N,) of each image by ``numbers`` (N,), or themselves where there are no numbers.

    Raises:
        VaexError: only some have a number.
    """
    if not len(numbers):
        return values
    if len(numbers) != len(values):
        raise mixed(len(values), len(numbers))
    return highest_of(values.cpu(), numbers.cpu())  # deterministic, whatever the device
