"""What a call is given, checked before anything is computed, and what a layer gave, checked before it is read."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from vaex.errors import VaexError, unknown


def at_least(need: str, value: Any, least: int) -> int:
    """Return ``value`` as a whole number of at least ``least``.

    Raises:
        VaexError: when it is none; ``need`` tells what was.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise VaexError(f"{need}, got {value!r}.")
    return int(value)


def not_negative(what: str, value: Any) -> float:
    """Return ``value`` as a finite number of 0 or more.

    Raises:
        VaexError: when it is none; ``what`` names it.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < inf:
        raise VaexError(f"{what} must be a number of 0 or more, got {value!r}.")
    return float(value)


def whole_numbers(option: str, values: Any) -> list[int]:
    """Return ``values`` as a list of whole numbers.

    Raises:
        VaexError: when it is none, or a mask of true and false; ``option`` names it.
    """
    wrong = VaexError(f"{option} must be a list of whole numbers such as [0, 3], got {values!r}.")
    try:
        given = list(values)
        found = [operator.index(value) for value in given]
    except TypeError:
        raise wrong from None
    if any(value is True or value is False or getattr(value, "dtype", None) is torch.bool for value in given):
        raise wrong  # a mask would be read as latents 0 and 1
    return found


def check_chunk(chunk: Any) -> None:
    """Refuse a number of targets per backward pass that is none; None leaves the choice to the memory budget."""
    if chunk is not None:
        at_least("chunk must be at least 1 target per backward pass, a whole number", chunk, 1)


def check_instance(kind: str, given: Any) -> None:
    """Refuse a class in the place of one of its objects."""
    if isinstance(given, type):
        raise VaexError(
            f"{kind} must be a name, a mapping of a name and parameters, an object or a function, got the class "
            f"{given.__name__}; write {given.__name__}(...)."
        )


def check_model(model: Any) -> None:
    """Refuse what is no module, and a module whose parts do not run as modules.

    Raises:
        VaexError: for a method or function, and for scripted, traced and exported modules.
    """
    if not isinstance(model, nn.Module):
        raise VaexError(f"A model must be an nn.Module, got {type(model).__name__}; pass the module, not its method.")
    graphs = [part for part in model.modules() if isinstance(part, GraphModule)]
    exported = any(base.__module__.startswith("torch.export") for part in graphs for base in type(part).__mro__)
    if exported or isinstance(model, torch.jit.ScriptModule):
        kind = "exported by torch.export" if exported else "scripted or traced by torch.jit"
        raise VaexError(
            f"A model that was {kind} does not run its layers as modules, so none of them can be read; pass the "
            "nn.Module that it was made from."
        )


def check_images(images: Any, size: str | Sequence[int]) -> None:
    """Refuse images that are no batch (B, C, H, W) and a size of maps that is none."""
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) == 0:
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise VaexError(f"Images must be a tensor (B, C, H, W) with B of at least 1, got {came}.")
    if images.is_complex():
        raise VaexError(f"Images must be real numbers, got {images.dtype}; give their size or their parts as channels.")
    if isinstance(size, str):
        if size not in ("input", "layer"):
            raise unknown("map size", size, ["input", "layer", "(H, W)"])
        return
    sides: list[Any] = list(size) if isinstance(size, Sequence) else []
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
        raise VaexError(f"A map size must be input, layer or a pair (H, W) of whole pixels, got {size!r}.")


def spatial(kept: dict[str, Tensor], layer: str, count: int) -> tuple[Tensor, list[int]]:
    """Return the activation (B, K, h, w) of ``layer`` for ``count`` images, and which of them have spoilt it.

    Raises:
        VaexError: for a layer that did not run, without cells, or with another number of images.
    """
    if layer not in kept:
        raise VaexError(f"Layer '{layer}' did not run when the images were encoded; choose a layer of the encoder.")
    activation = kept[layer]
    if activation.dim() != 4:
        raise VaexError(
            f"Layer '{layer}' gives {tuple(activation.shape)}, but a map needs an activation (B, K, h, w); "
            "choose a convolution or the activation behind one."
        )
    if len(activation) != count:
        raise VaexError(
            f"Layer '{layer}' gives {len(activation)} activations for {count} images, as one that sees patches or "
            "frames does, but a map needs one for each image; choose a layer that sees whole images."
        )
    spoilt: list[int] = (~activation.detach().isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if spoilt:
        warnings.warn(
            f"Layer '{layer}' is not finite for {len(spoilt)} of {count} images (positions {spoilt[:8]}): "
            "their maps mean nothing; check these images for NaN, and the weights.",
            stacklevel=2,
        )
    return activation, spoilt


def check_recorded(made: Tensor) -> None:
    """Refuse what a model made in an inference mode of its own."""
    if made.is_inference():
        raise VaexError(
            "The target has no gradient path to the layer: the model encodes inside torch.inference_mode, which "
            "records none; take that decorator or context away from its encode, or use torch.no_grad there."
        )
