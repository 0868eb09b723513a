"""What calibration found out about normal images, read from its plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vaex.errors import VaexError
from vaex.types import NormalCodes


class NormalMaps(NamedTuple):
    """The maps of normal images at the size of their layer, position by position, in the unit of the maps."""

    mean: Tensor  # (T, h, w)
    deviation: Tensor  # (T, h, w) standard deviation


def _tensors(calibration: Mapping[str, Any] | None, key: str, names: tuple[str, ...]) -> list[Tensor]:
    if not calibration:
        raise VaexError("This model is not calibrated, so what is normal is unknown; run `vaex calibrate ckpt=...`.")
    part = calibration.get(key)
    found = [part.get(name) if isinstance(part, Mapping) else None for name in names]
    tensors = [value for value in found if isinstance(value, Tensor)]
    if len(tensors) < len(names):
        raise VaexError(
            f"The calibration of this model lacks {key} ({', '.join(names)}); run `vaex calibrate ckpt=...` again."
        )
    return tensors


def normal_codes(calibration: Mapping[str, Any] | None) -> NormalCodes:
    """Return the codes of normal images, mean (D,), covariance (D, D) and variance (D,), from ``model.calibration``.

    Raises:
        VaexError: when the model is not calibrated, or its calibration holds no such codes.
    """
    codes = NormalCodes(*_tensors(calibration, "codes", NormalCodes._fields))
    latents = len(codes.mean) if codes.mean.dim() == 1 else 0
    shapes = [tuple(part.shape) for part in codes]
    if shapes != [(latents,), (latents, latents), (latents,)]:
        raise VaexError(
            f"The calibration of this model holds codes of shapes {', '.join(map(str, shapes))} in place of (D,), "
            "(D, D), (D,); run `vaex calibrate ckpt=...` again."
        )
    return codes


def normal_maps(calibration: Mapping[str, Any] | None) -> NormalMaps:
    """Return mean and deviation (T, h, w) of the maps of normal images from ``model.calibration``.

    Raises:
        VaexError: when the model is not calibrated, or its calibration holds no such maps.
    """
    maps = NormalMaps(*_tensors(calibration, "maps", NormalMaps._fields))
    if maps.mean.dim() != 3 or maps.mean.shape != maps.deviation.shape:
        shapes = f"{tuple(maps.mean.shape)} and {tuple(maps.deviation.shape)}"
        raise VaexError(
            f"The calibration of this model holds maps of shapes {shapes} in place of (T, h, w); "
            "run `vaex calibrate ckpt=...` again."
        )
    return maps
