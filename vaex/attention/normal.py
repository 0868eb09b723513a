"""What calibration found out about normal images, read from its plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaex.attention.target import Seen
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
    if (shapes := _wrong_shapes(codes)) is not None:
        raise VaexError(
            f"The calibration of this model holds codes of shapes {shapes} in place of (D,), "
            "(D, D), (D,); run `vaex calibrate ckpt=...` again."
        )
    return codes


def _wrong_shapes(codes: NormalCodes) -> str | None:
    shapes = [tuple(torch.as_tensor(part).shape) for part in codes]
    latents = shapes[0][0] if len(shapes[0]) == 1 else 0
    return None if shapes == [(latents,), (latents, latents), (latents,)] else ", ".join(map(str, shapes))


def codes_for(given: NormalCodes | None, seen: Seen) -> NormalCodes:
    """Return ``given``, or the codes that calibration left in the model, once they are found to fit what is seen.

    Raises:
        VaexError: as `normal_codes`; for codes of another number of latents, or of a latent grid that calibration
            reduced in another way.
    """
    latents = seen.code.mean.shape[1]
    if given is not None:
        shapes = _wrong_shapes(given)
        if shapes is not None or len(given.mean) != latents:
            raise VaexError(
                f"Normal codes must have mean (D,), covariance (D, D) and variance (D,) with D = {latents} as the "
                f"model has, got {shapes or f'D = {len(given.mean)}'}; pass those of this model."
            )
        return given
    calibration = getattr(seen.model, "calibration", None) or {}
    codes = normal_codes(calibration)
    if len(codes.mean) != latents:
        raise VaexError(
            f"The calibration of this model holds codes of {len(codes.mean)} latents, and the model has {latents}; run "
            "`vaex calibrate ckpt=...` again."
        )
    used = (calibration.get("attention") or {}).get("reduce", seen.cells)
    before, now = (cells if isinstance(cells, str) else tuple(cells) for cells in (used, seen.cells))
    if seen.code.mean.dim() == 4 and before != now:
        raise VaexError(
            f"The normal codes were calibrated with reduce={before} and are compared with codes of reduce={now}; "
            "choose the same, or calibrate with it."
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
