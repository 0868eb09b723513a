"""Images encoded once into a table of codes and factors, which every metric of disentanglement reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaex.attention.isolation import original
from vaex.calibrate import codes_of
from vaex.errors import VaexError
from vaex.explanation import features_before


class Codes(NamedTuple):
    """Codes (N, D) and factors (N, F) of images, on the CPU, and the names (F,) of the factors."""

    codes: Tensor
    factors: Tensor
    names: tuple[str, ...]


def has_factors(data: Any) -> bool:
    """Tell whether a data module states the factors of a whole grid of images: ``grid_set`` and ``factor_names``."""
    return hasattr(data, "grid_set") and len(getattr(data, "factor_names", ())) > 0


def chosen_images(total: int, count: int | None, seed: int = 0) -> NDArray[np.int64]:
    """Return the positions, ascending, of ``count`` of ``total`` images drawn with ``seed``; of all for None.

    Raises:
        VaexError: when fewer than 2 are asked for.
    """
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 2):
        raise VaexError(f"Disentanglement needs the codes of at least 2 images, or null for all, got codes={count}.")
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng((seed, 4)).choice(total, count, replace=False))


def encoded(model: nn.Module, data: Any, count: int | None = None, seed: int = 0, batch: int = 256) -> Codes:
    """Return the posterior means and factors of ``count`` images of the whole grid of ``data`` (None: of all).

    The model is run in evaluation mode, ``batch`` images at a time, on its own device, and left as it was.

    Raises:
        VaexError: when the data states no factors, or ``count`` or ``batch`` is out of range.
    """
    if not has_factors(data):
        raise VaexError(
            f"{type(data).__name__} states no factors, so disentanglement cannot be measured; choose data=sprites or "
            "another data set with known factors."
        )
    if batch < 1:
        raise VaexError(f"Images are encoded at least one at a time, got batch={batch}.")
    images = data.grid_set
    positions = chosen_images(len(images), count, seed)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    codes, factors = [], []
    for start in range(0, len(positions), batch):
        part = images.__getitems__(positions[start : start + batch].tolist())
        pixels = features_before(original(model), part["image"].to(device))
        codes.append(codes_of(model, pixels)[0].float().cpu())
        factors.append(part["factors"])
    return Codes(torch.cat(codes), torch.cat(factors), tuple(data.factor_names))
