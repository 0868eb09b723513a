"""Cascading weight randomisation: a map that explains a network must change when the network's weights do.

The control is free: maps of a code are the encoder's alone, so weights of the decoder must not move them by a bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from vaex.errors import VaexError, unknown
from vaex.metrics.faithfulness.correlation import spearman
from vaex.metrics.overlap import check_finite


def weighted_modules(model: nn.Module, within: str = "") -> list[str]:
    """Return the names of the modules of ``model`` below ``within`` that own parameters, the last registered first.

    Raises:
        VaexError: when there is no such module.
    """
    named = dict(model.named_modules())
    if within not in named:
        raise unknown("module to randomise", within, [name for name in named if name])
    below = [name for name in named if not within or name == within or name.startswith(f"{within}.")]
    return [name for name in reversed(below) if any(True for _ in named[name].parameters(recurse=False))]


def cascade(model: nn.Module, names: Sequence[str], seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield, name by name, a copy of ``model`` whose modules up to that name have fresh weights.

    The copy is one and the same, so look at it before the next step; ``model`` and the random stream stay as they are.
    A module draws its weights as it did when it was made (``reset_parameters``); one that cannot gets its own values in
    a random order.

    Raises:
        VaexError: for a name that is none.

    Source: Adebayo et al., NeurIPS 2018, "Sanity Checks for Saliency Maps".
    """
    kept = getattr(model, "calibration", None)  # what was fitted is large, and not drawn
    fresh = copy.deepcopy(model, {id(kept): kept})
    modules = dict(fresh.named_modules())
    for place, name in enumerate(names):
        if name not in modules:
            raise unknown("module to randomise", name, [known for known in modules if known])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed + place)
            _redraw(modules[name])
        yield name, fresh


def with_fresh_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of ``model`` with all weights drawn anew, as by the last step of the `cascade`: it knows nothing.

    Buffers, such as a frozen feature extractor and its whitening, stay as they are.
    """
    fresh = model
    for _, fresh in cascade(model, weighted_modules(model), seed):  # noqa: B007 - the last one is wanted
        pass
    return fresh


def _redraw(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        order = torch.randperm(parameter.numel()).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def map_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Return the rank correlation of the sizes |M| of maps and others: (B, T) in [-1, 1], from (B, T, H, W) twice.

    1 for the same map; 0 where one of them is constant and the other is not.

    Raises:
        VaexError: when the shapes differ, or a map is not finite.
    """
    check_finite(maps)
    check_finite(others)
    if maps.shape != others.shape:
        raise VaexError(f"Maps to compare must have one shape, got {tuple(maps.shape)} and {tuple(others.shape)}.")
    a, b = maps.abs().flatten(2), others.to(maps).abs().flatten(2)
    return torch.where((a == b).all(2), 1.0, spearman(a, b).nan_to_num(0.0))


def randomisation_curve(
    explain: Callable[[nn.Module], Tensor], model: nn.Module, names: Sequence[str], seed: int = 0
) -> Tensor:
    """Return `map_similarity` to the maps of ``model`` after each step of the `cascade`: (L, B, T).

    ``explain`` takes a network to its maps (B, T, H, W). For modules of the encoder it should fall to that of an
    explanation that knows nothing, about 0; for those of the decoder it must stay 1.

    Raises:
        VaexError: for an unknown or missing name, or maps of another shape.
    """
    if not names:
        raise VaexError("Name at least one module whose weights are drawn anew.")
    maps = explain(model)
    return torch.stack([map_similarity(maps, explain(fresh)) for _, fresh in cascade(model, names, seed)])
