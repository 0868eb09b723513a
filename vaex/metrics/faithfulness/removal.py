"""Deletion and insertion: how a value changes while pixels are replaced in the order of a map.

For a classifier the value is a class score and pixels turn grey. A latent has no zero and no unit, so what counts is
how far its value still is from that of the wholly replaced image, |S(x_k) - S(x')|, as a share of |S(x) - S(x')|. And
pixels are replaced by what the decoder draws, since a VAE answers to grey with a code that says nothing about the
image. Which decoded image: one without the latent, g(mu with mu_i = 0), for the map of latent i. The reconstruction
itself keeps the latent as it is, so it asks little of a latent's map; it is what an anomaly map's pixels turn into.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.overlap import check_finite

Values = Callable[[Tensor], Tensor]
"""What maps are of: takes as many images (B, C, H, W) as are explained, in their order, to values (B, T)."""


def removal_order(maps: Tensor, signed: bool = False, seed: int = 0) -> Tensor:
    """Return the place of each pixel in the order of removal, 0 the first: (B, T, H, W) whole numbers below H W.

    The order is that of falling |map|, since evidence against a value is evidence too; ``signed``: of falling map. Ties
    come in an order that is drawn with ``seed``, not from the corner on.

    Raises:
        VaexError: when the maps are not (B, T, H, W) or not finite.
    """
    check_finite(maps)
    flat = (maps if signed else maps.abs()).flatten(2)  # (B, T, HW)
    pixels = flat.shape[2]
    drawn = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(maps.device)
    sequence = drawn[flat[..., drawn].argsort(dim=2, descending=True, stable=True)]
    places = torch.arange(pixels, device=maps.device).expand_as(sequence)
    return torch.empty_like(sequence).scatter_(2, sequence, places).view(maps.shape)


def fill_of(fill: Tensor, images: Tensor, targets: int) -> Tensor:
    """Return the replacement of each target's pixels, (B, T, C, H, W), from one for all (B, C, H, W) or one for each.

    Raises:
        VaexError: for another shape.
    """
    batch, *rest = images.shape
    wide = fill[:, None].expand(-1, targets, *[-1] * (fill.dim() - 1)) if fill.dim() == images.dim() else fill
    if tuple(wide.shape) != (batch, targets, *rest):
        raise VaexError(
            f"The images to fill with must be {tuple(images.shape)} or, one for each map, {(batch, targets, *rest)}, "
            f"got {tuple(fill.shape)}."
        )
    return wide


@torch.no_grad()
def values_along(
    values: Values,
    images: Tensor,
    maps: Tensor,
    fill: Tensor,
    steps: int = 16,
    *,
    insert: bool = False,
    signed: bool = False,
    seed: int = 0,
) -> Tensor:
    """Return each value while the pixels of its map are replaced, most important first: (B, T, steps + 1).

    ``images`` (B, C, H, W), ``maps`` (B, T, H, W), ``fill`` (B, C, H, W) or one for each map (B, T, C, H, W). Place k
    is the value with k / steps of the pixels, rounded down, taken from ``fill``; with ``insert`` the way begins at
    ``fill`` and the same pixels come from the image. ``signed`` and ``seed`` are those of `removal_order`. It
    takes T (steps + 1) calls of ``values``.

    Raises:
        VaexError: when shapes do not fit, a map or value is not finite, or ``steps`` is below 1.
    """
    if steps < 1:
        raise VaexError(f"Pixels are replaced in at least 1 step, got steps={steps}.")
    order = removal_order(maps, signed, seed).to(images.device)  # (B, T, H, W)
    if (len(maps), *maps.shape[2:]) != (len(images), *images.shape[2:]):
        raise VaexError(f"Maps {tuple(maps.shape)} must be of the images' size, {tuple(images.shape)}.")
    targets, pixels = maps.shape[1], maps.shape[2] * maps.shape[3]
    fills = fill_of(fill.to(images), images, targets)
    start, goal = (fills, images[:, None].expand_as(fills)) if insert else (images[:, None].expand_as(fills), fills)
    columns = []
    for target in range(targets):
        first, last, place = start[:, target], goal[:, target], order[:, target, None]  # (B, C, H, W), (B, 1, H, W)
        way = []
        for step in range(steps + 1):
            found = values(torch.where((place + 1) * steps <= step * pixels, last, first))
            way.append(check_values(found, (len(maps), targets))[:, target])
        columns.append(torch.stack(way, 1))
    return torch.stack(columns, 1)


def check_values(found: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the values of images as float64, refused where they are not of ``size`` (B, T) or not finite."""
    if not isinstance(found, Tensor) or tuple(found.shape) != size:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise VaexError(f"The values of {size[0]} images with {size[1]} maps each must be a tensor {size}, got {got}.")
    if not bool(torch.isfinite(found).all()):
        raise VaexError("Values that maps are of are NaN or infinite: look at the images to fill with, and the model.")
    return found.double()


def deletion_curve(
    values: Values, images: Tensor, maps: Tensor, fill: Tensor, steps: int = 16, seed: int = 0
) -> Tensor:
    """Return |S(x_k) - S(x')| as the top k / steps pixels of each map are replaced: (B, T, steps + 1), in units of S.

    It begins at |S(x) - S(x')| and ends at 0; a map that tells the truth makes it fall early. Arguments and errors are
    those of `values_along`.

    Source: Petsiuk et al., BMVC 2018, "RISE", for class scores and grey.
    Differs: the distance to the value of the replaced image, as a latent has a sign and no zero; fill by the decoder.
    """
    way = values_along(values, images, maps, fill, steps, seed=seed)
    return (way - way[..., -1:]).abs()


def insertion_curve(
    values: Values, images: Tensor, maps: Tensor, fill: Tensor, steps: int = 16, seed: int = 0
) -> Tensor:
    """Return |S(x_k) - S(x')| as the top k / steps pixels of each map are put back: (B, T, steps + 1), in units of S.

    It begins at 0 and ends at |S(x) - S(x')|; a map that tells the truth makes it rise early. Arguments, errors and
    source are those of `deletion_curve`.
    """
    way = values_along(values, images, maps, fill, steps, insert=True, seed=seed)
    return (way - way[..., :1]).abs()


def curve_area(curves: Tensor) -> Tensor:
    """Return the mean height of curves (..., n) over evenly spaced places, by trapezoids: (...)."""
    return (curves.sum(-1) - (curves[..., 0] + curves[..., -1]) / 2) / (curves.shape[-1] - 1)


def deletion(values: Values, images: Tensor, maps: Tensor, fill: Tensor, steps: int = 16, seed: int = 0) -> Tensor:
    """Return the area under `deletion_curve` as a share of its beginning: (B, T), low for a map that tells the truth.

    NaN where the fill changes no value. It may pass 1, where half-replaced images move a value further than whole ones.
    An average over images should weigh by |S(x) - S(x')|, as `FaithfulnessMetrics` does.
    """
    curve = deletion_curve(values, images, maps, fill, steps, seed)
    return _share(curve_area(curve), curve[..., 0])


def insertion(values: Values, images: Tensor, maps: Tensor, fill: Tensor, steps: int = 16, seed: int = 0) -> Tensor:
    """Return the area under `insertion_curve` as a share of its end: (B, T), high for a map that tells the truth.

    NaN where the fill changes no value; as `deletion` it may pass 1.
    """
    curve = insertion_curve(values, images, maps, fill, steps, seed)
    return _share(curve_area(curve), curve[..., -1])


def deletion_to_normal(
    scores: Values, images: Tensor, score_maps: Tensor, reconstruction: Tensor, steps: int = 16, seed: int = 0
) -> Tensor:
    """Return how much of the excess anomaly score is left while a score map's top pixels turn normal: (B, T).

    ``scores`` takes images to anomaly scores (B, T), ``score_maps`` (B, T, H, W) say "anomalous here" (their order is
    signed), ``reconstruction`` is what the model takes for the normal image, of a shape as in `values_along`. It is the
    mean over the way of (s(x_k) - s(x')) / (s(x) - s(x')): near 0 where the map finds at once what makes the image
    anomalous, 1/2 for an order that knows nothing where pixels add up, NaN where s(x) is not above s(x'). A score that
    is the sum of its own map passes by construction: ask another score, such as the KL or a detector's.

    Raises:
        VaexError: as `values_along`.
    """
    way = values_along(scores, images, score_maps, reconstruction, steps, signed=True, seed=seed)
    excess = way - way[..., -1:]
    return torch.where(excess[..., 0] > 0, _share(curve_area(excess), excess[..., 0]), torch.nan)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, torch.nan, part / torch.where(whole == 0, 1.0, whole))
