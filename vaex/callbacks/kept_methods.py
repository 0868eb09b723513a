"""What a test adds for the report: maps of further methods, and what held-out normal images score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from vaex.attention.methods import method_named
from vaex.callbacks.kept_arrays import reduced
from vaex.errors import VaexError
from vaex.explanation import calibration_of
from vaex.probing import attention_of
from vaex.scores import Score
from vaex.scores.thresholds import normal_scores_of

BATCH = 8
"""Images that are explained at once."""

Draw = Callable[[Any, Tensor, Any], Tensor]
"""Takes a method, images (B, C, H, W) and the latents wanted; returns their maps (B, T, H, W)."""


class Normal(NamedTuple):
    """Scores (N,) of held-out normal images and the highest value (N,) of their maps; else why there are none.

    ``tiles``: both are the highest of the tiles of an image.
    """

    scores: list[float]
    pixels: list[float]
    reason: str = ""
    tiles: bool = False


def method_title(method: Any) -> str:
    """Return how a method is called: its name, with parameters where some are given."""
    if isinstance(method, Mapping):
        inside = ", ".join(f"{key}={value}" for key, value in method.items() if key != "name")
        return f"{method.get('name')} ({inside})" if inside else str(method.get("name"))
    return str(getattr(method, "name", getattr(method, "__name__", method)))


def further_methods(methods: Sequence[Any], own: Any) -> dict[str, Any]:
    """Return the methods by title, without the run's ``own``.

    Raises:
        VaexError: for an unknown one.
    """
    found = {method_title(method): method for method in methods}
    for method in found.values():
        method_named(method)
    found.pop(method_title(own), None)
    return found


def maps_of_methods(
    methods: Mapping[str, Any], draw: Draw, images: Sequence[Tensor], latents: list[int] | None, columns: list[int]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return small maps (G, T, h, w) of ``images``, each (1, C, H, W), by method; ``columns`` of them are kept.

    A method that the model does not admit is told and left out.
    """
    found = {}
    for title, method in methods.items():
        try:
            parts = []
            for start in range(0, len(images), BATCH):
                maps = draw(method, torch.cat(list(images[start : start + BATCH])), latents)
                parts.append(reduced(maps[:, columns].detach()).cpu().numpy().astype(np.float32))
        except VaexError as error:
            rank_zero_warn(f"The report has no maps of method={title}: {error}")
        else:
            found[title] = np.concatenate(parts)
    return found


def added_to(
    vae: nn.Module, device: torch.device, score: Score, layer: Any, options: Mapping[str, Any]
) -> tuple[Draw, Normal]:
    """Return what `vaex.callbacks.kept.KeptTest.write` takes beside what it kept, of a model on ``device``."""
    return drawing_with(vae, layer, options, device), normal_of(vae, score, layer, options)


def drawing_with(vae: nn.Module, layer: Any, options: Mapping[str, Any], device: torch.device) -> Draw:
    """Return what makes the maps of a model with ``layer`` and ``options``, but for method and latents."""

    def draw(method: Any, images: Tensor, latents: Any) -> Tensor:
        return attention_of(vae, images.to(device), layer, **{**options, "method": method, "latents": latents})

    return draw


def normal_of(vae: nn.Module, score: Score, layer: Any, options: Mapping[str, Any]) -> Normal:
    """Return what calibration left of held-out normal images for ``score``."""
    try:
        found = normal_scores_of(calibration_of(vae), score, layer, options)
    except VaexError as error:
        return Normal([], [], str(error))
    tiles = calibration_of(vae).get("tiles") is not None
    return Normal(found.scores.double().tolist(), found.pixels[:, 0].double().tolist(), tiles=tiles)
