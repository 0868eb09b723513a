"""Synthetic defects for validation and training: a spot of a normal image is changed, and what changed is its mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.data.outlines import CHANGES, OUTLINES, Floats, Outline, Window
from vaex.errors import VaexError, unknown

KINDS = tuple(CHANGES)
"""What may be done to the pixels: pasted from elsewhere, recoloured, noise added, shifted, blurred, made flat."""

SHAPES = tuple(OUTLINES)
"""Outlines of defects: ellipse, bar, blob."""

RADII = (4.0, 34.0)
"""Smallest and largest radius of a defect, in pixels of an image whose shorter side has 256."""

VISIBLE = 0.03
"""A pixel counts as changed where the change, averaged over its 3x3 neighbours, exceeds this; others are put back."""

_TRIES = 12  # places and strengths tried for one kind, before another kind is taken
_LEAST = 0.2  # share of a shape that must have changed


@dataclass(frozen=True)
class Recipe:
    """Which defects are pasted, as `paste_defects` takes them: the options of ``data.recipe``.

    Raises:
        VaexError: when a kind or shape is unknown, none is left, or radii are out of range.
    """

    kinds: Sequence[str] = KINDS
    shapes: Sequence[str] = SHAPES
    size: Sequence[float] = RADII

    def __post_init__(self) -> None:
        _check_names("kind of defect", self.kinds, KINDS)
        _check_names("shape of defect", self.shapes, SHAPES)
        numbers = [value for value in self.size if type(value) in (int, float)] if _listed(self.size) else []
        if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < math.inf:
            raise VaexError(f"Radii of defects must be two numbers with 0 < smallest <= largest, got {self.size!r}.")


class Pasted(NamedTuple):
    """Images with one synthetic defect each."""

    images: Tensor  # (B, C, H, W) float32 in [0, 1]
    masks: Tensor  # (B, 1, H, W) float32, 1 exactly where the image differs from the one given
    kinds: Tensor  # (B,) long, position in KINDS


def paste_defects(
    images: Tensor,
    seeds: Sequence[int],
    *,
    kinds: Sequence[str] = KINDS,
    shapes: Sequence[str] = SHAPES,
    size: Sequence[float] = RADII,
    sources: Tensor | None = None,
) -> Pasted:
    """Change one spot of each image (B, C, H, W) in [0, 1], as its seed says, whatever else is in the batch.

    Half of the spots are centred on the object, which is what differs from the median of the border; in an image
    without such an object, a texture, they lie anywhere. Edges are soft. A change that cannot be seen does not count:
    such pixels stay as they were and are not in the mask, which is never empty.

    Args:
        images: normal images, float.
        seeds: one whole number per image.
        kinds: what may be done to the pixels, of `KINDS`, each equally often. Where a kind changes nothing
            anywhere it was tried (blurring an even image), another kind of `KINDS` is taken, and told.
        shapes: outlines, of `SHAPES`, each equally often.
        size: smallest and largest radius in pixels of an image whose shorter side has 256; log-uniform between them.
        sources: normal images (N, C, H, W) in [0, 1] to paste from; None: the image itself, elsewhere.

    Raises:
        VaexError: when shapes disagree, values leave [0, 1], or an option is unknown or out of range.
    """
    recipe = Recipe(kinds, shapes, size)
    chosen = [KINDS.index(kind) for kind in recipe.kinds]
    outlines = [OUTLINES[shape] for shape in recipe.shapes]
    low, high = recipe.size
    _check_images("Images", images)
    if len(seeds) != len(images):
        raise VaexError(f"Defects need one seed per image, got {len(seeds)} seeds for {len(images)} images.")
    changed = images.detach().to("cpu", torch.float32, copy=True).contiguous()
    pool = None
    if sources is not None:
        _check_images("Images to paste from", sources)
        if sources.shape[1:] != images.shape[1:] or not len(sources):
            expected, got = tuple(images.shape[1:]), tuple(sources.shape)
            raise VaexError(
                f"Images to paste from must be (N, {expected[0]}, {expected[1]}, {expected[2]}), got {got}."
            )
        pool = sources.detach().to("cpu", torch.float32).numpy()
    masks = torch.zeros(len(images), 1, *images.shape[2:])
    done = torch.empty(len(images), dtype=torch.long)
    for row, seed in enumerate(seeds):
        random = np.random.default_rng((int(seed) % 2**64, 0xDEFEC7))
        image = changed[row].numpy()
        source = image if pool is None else pool[random.integers(len(pool))]
        done[row] = _change(image, masks[row, 0].numpy(), source, random, chosen, outlines, (low, high))
    return Pasted(changed.to(images.device), masks.to(images.device), done.to(images.device))


def _listed(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _check_names(what: str, names: Sequence[str], valid: tuple[str, ...]) -> None:
    if not _listed(names) or not len(names):
        raise VaexError(f"Give a list with at least one {what} of {', '.join(valid)}, got {names!r}.")
    for name in names:
        if name not in valid:
            raise unknown(what, str(name), valid)


def _check_images(what: str, images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point() or 0 in images.shape[1:]:
        raise VaexError(f"{what} must be float (B, C, H, W), got {images.dtype} {tuple(images.shape)}.")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # also when NaN
        raise VaexError(f"{what} must have values in [0, 1], got {images.min():.3g} to {images.max():.3g}.")


def _change(
    image: Floats,
    mask: Floats,
    source: Floats,
    random: np.random.Generator,
    kinds: Sequence[int],
    outlines: Sequence[Outline],
    size: tuple[float, float],
) -> int:
    """Draw one defect into ``image`` (C, H, W) and ``mask`` (H, W), and return its kind."""
    height, width = image.shape[1:]
    scale = min(height, width) / 256
    object_cells = _object(image)
    kind = kinds[int(random.integers(len(kinds)))]
    for attempt in range(2 * _TRIES):
        if attempt >= _TRIES:
            kind = int(random.integers(len(KINDS)))
        radius = max(1.5, scale * math.exp(random.uniform(math.log(size[0]), math.log(size[1]))))
        y, x = _center(object_cells, height, width, random)
        soft = max(0.5, scale * random.uniform(1, 4))
        reach = math.ceil(radius + soft) + 1
        rows = slice(max(0, y - reach), min(height, y + reach + 1))
        columns = slice(max(0, x - reach), min(width, x + reach + 1))
        down = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - y
        across = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - x
        outline = outlines[int(random.integers(len(outlines)))]
        alpha = np.clip(0.5 - outline(down, across, radius, random) / soft, 0, 1)  # (h, w)
        window = Window(image, source, rows, columns, radius)
        before = window.pixels
        after = before + alpha * (CHANGES[KINDS[kind]](window, random) - before)
        np.clip(after, 0, 1, out=after)
        seen = (_mean3(np.abs(after - before).max(axis=0)) > VISIBLE) & (alpha > 0)
        if seen.sum() >= max(3, _LEAST * (alpha > 0.5).sum()):
            break
    else:  # nothing could be seen, so change what is certain to be
        kind, seen = KINDS.index("recoloured"), alpha >= alpha.max()
        after = before + np.where(before < 0.5, np.float32(0.4), np.float32(-0.4))
    same = seen & (after == before).all(axis=0)  # by chance, inside the defect
    after = np.where(same, before + np.where(before < 0.5, np.float32(1 / 255), np.float32(-1 / 255)), after)
    mask[rows, columns] = seen
    image[:, rows, columns] = np.where(seen, after, before)
    return kind


def _object(image: Floats) -> NDArray[np.intp] | None:
    """Coarse pixels (M, 2) that differ from the border's median; None where there is no object on an even ground."""
    step = max(1, min(image.shape[1:]) // 64)
    coarse = image[:, ::step, ::step]
    border = np.concatenate((coarse[:, 0], coarse[:, -1], coarse[:, :, 0], coarse[:, :, -1]), axis=1)
    ground = np.median(border, axis=1)
    if (np.abs(border - ground[:, None]).max(axis=0) > 0.1).mean() > 0.3:
        return None  # a texture, or no even ground
    found = np.argwhere(np.abs(coarse - ground[:, None, None]).max(axis=0) > 0.1)
    return found * step if found.size > 0.02 * coarse[0].size else None


def _center(
    object_cells: NDArray[np.intp] | None, height: int, width: int, random: np.random.Generator
) -> tuple[int, int]:
    y, x = int(random.integers(height)), int(random.integers(width))
    if object_cells is not None and random.random() < 0.5:
        y, x = (int(value) for value in object_cells[random.integers(len(object_cells))])
    return y, x


def _mean3(values: Floats) -> Floats:
    """Mean over 3x3 pixels, the border repeated."""
    padded = np.pad(values, 1, mode="edge")
    lines = padded[:-2] + padded[1:-1] + padded[2:]
    mean: Floats = (lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:]) / 9
    return mean
