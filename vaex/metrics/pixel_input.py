"""What `LocalizationMetrics` takes in, checked and cut into pixels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.ordering import Floats, Keys, Values, to_keys
from vaex.metrics.regions import region_sizes
from vaex.metrics.sketch import Pixels

EXACT = (torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16)
"""Types whose values float32 holds."""


class Images(NamedTuple):
    """A batch: ``maps`` (B, H, W), ``masks`` (B, H, W), the ``scores`` (B,) and the ``groups`` of the images."""

    maps: Values
    masks: NDArray[np.bool_]
    scores: Floats
    groups: list[str]


def checked_images(
    score_maps: Tensor, masks: Tensor, scores: Tensor | None, groups: Sequence[str] | None, before: int
) -> Images:
    """Return the batch on the CPU, once it is found to fit; ``before`` images came earlier.

    Raises:
        VaexError: shapes do not fit, or a map, mask or score holds NaN.
    """
    if score_maps.ndim != 4 or score_maps.shape[1] != 1 or 0 in score_maps.shape[2:]:
        raise VaexError(f"Score maps must be (B, 1, H, W) with at least one pixel, got {tuple(score_maps.shape)}.")
    if masks.shape != score_maps.shape:
        raise VaexError(
            f"The shape of the score maps is {tuple(score_maps.shape)} and that of the masks {tuple(masks.shape)}: "
            "bring both to the resolution of evaluation, one mask per map."
        )
    count = len(score_maps)
    names = [""] * count if groups is None else checked_groups(groups, count)
    if scores is not None and scores.shape != (count,):
        raise VaexError(f"Scores must be ({count},), one per map, got {tuple(scores.shape)}.")
    maps, truth = (_array(values[:, 0], torch.float32) for values in (score_maps, masks))
    peaks: Floats = maps.max((1, 2)).astype(np.float64)  # NaN where anything is NaN
    refuse_nan(peaks, "score map", before)
    if score_maps.dtype not in EXACT:
        wide = _array(score_maps[:, 0], torch.float64)
        check_precision(wide, maps, before)
        peaks = wide.max((1, 2))
    refuse_nan(truth.max((1, 2)), "mask", before)
    given: Floats = peaks if scores is None else _array(scores, torch.float64)
    refuse_nan(given, "score", before)
    return Images(maps, truth > 0.5, given, names)


def checked_groups(groups: Sequence[str], count: int) -> list[str]:
    """Return the names of the kinds of ``count`` images.

    Raises:
        VaexError: when they are anything but so many texts.
    """
    names = list(groups) if isinstance(groups, Iterable) and not isinstance(groups, str) else None
    if names is None or len(names) != count or not all(isinstance(name, str) for name in names):
        got = repr(groups) if isinstance(groups, str | list | tuple) else f"a {type(groups).__name__}"
        raise VaexError(f"groups must be a list of {count} names, one text per map such as 'scratch', got {got}.")
    return [str(name) for name in names]


def check_precision(wide: Floats, maps: Values, before: int) -> None:
    """Warn where the float32 ``maps`` (B, H, W) merge what ``wide`` (B, H, W), the same as given, tells apart.

    Single pixels that become equal move no measure; a thousandth of an image, eight pixels or all of them may.

    Raises:
        VaexError: a finite value is beyond float32.
    """
    for number, (given, kept) in enumerate(zip(wide, maps, strict=True)):
        if not np.array_equal(np.isfinite(given), np.isfinite(kept)):
            raise VaexError(
                f"The score map of image {before + number} holds {np.abs(given[np.isfinite(given)]).max():.3g}, which "
                "float32 cannot hold, and maps are compared as float32: divide all maps by one number."
            )
        if np.array_equal(given, kept):
            continue
        values, places = np.unique(given, return_index=True)
        merged = np.unique(kept.ravel()[places], return_counts=True)[1].max(initial=0)
        if merged > max(8, given.size / 1000) or merged == len(values) > 1:
            warnings.warn(
                f"The score map of image {before + number} has {merged} different values that float32 cannot tell "
                "apart, and maps are compared as float32: subtract one offset from all maps, or scale them.",
                stacklevel=5,
            )
            return


def refuse_nan(values: NDArray[Any], what: str, before: int) -> None:
    """Do nothing where ``values`` (B,), one per image, hold no NaN.

    Raises:
        VaexError: they do.
    """
    if len(broken := np.flatnonzero(np.isnan(values))):
        more = f", and {len(broken) - 1} more of the batch" if len(broken) > 1 else ""
        raise VaexError(
            f"The {what} of image {before + int(broken[0])} holds NaN (number {int(broken[0])} of its batch{more}; "
            "images are counted from 0 over all updates of this process): look for a diverged model or a division by "
            "zero."
        )


def image_pixels(score_map: Values, mask: NDArray[np.bool_], group: str) -> Pixels:
    """Return the pixels of one image (H, W), in its own order."""
    keys, truth, sizes = to_keys(score_map.ravel()), mask.ravel(), region_sizes(mask)
    if not len(sizes):
        return Pixels(-mask.size, keys, keys[:0], np.zeros((0, 2)))
    weights = np.stack([1 / sizes, np.full(len(sizes), 1 / len(sizes))], 1)
    return Pixels(group_number(group), keys[~truth], keys[truth], weights)


def group_number(name: str) -> int:
    """Return a number above 0 that stands for the group in every process: a hash of 62 bits."""
    return 1 + (int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 2)


def sorted_parts(table: NDArray[np.int64], normal: Keys, anomalous: Keys, weights: Floats) -> list[Pixels]:
    """Return the pixels part by part, ascending.

    ``table`` (images, 3) holds part, normal and anomalous pixels of each image, whose pixels follow each other in
    ``normal``, ``anomalous`` (m,) and ``weights`` (m, 2).
    """
    starts = np.cumsum(table[:, 1]) - table[:, 1]
    owners = np.repeat(table[:, 0], table[:, 2])
    result = []
    for part in np.unique(table[:, 0]).tolist():
        rows = np.flatnonzero(table[:, 0] == part)
        keys = np.concatenate([normal[starts[row] : starts[row] + table[row, 1]] for row in rows])
        keys.sort()
        own = owners == part
        order = np.argsort(anomalous[own])
        result.append(Pixels(part, keys, anomalous[own][order], weights[own][order]))
    return result


def _array(values: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    result: NDArray[Any] = values.detach().cpu().to(dtype).numpy()
    return result
