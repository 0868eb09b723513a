"""Factor-grounded pointing: does the map of a latent lie where its factor changes the image?

On drawn images the truth is exact: the mask of a latent is what changes when the factor that it encodes moves one step,
all else unchanged. Which factor that is, is read off held-out codes (`match_factors`). The size |map| is measured,
since evidence against a latent's value is evidence too. A map has to beat the mask's share of the image, which is what
a uniform map earns, and the image's own intensity, which is no explanation at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from vaex.errors import VaexError
from vaex.metrics.maps import energy_inside, pointing_game
from vaex.metrics.overlap import check_finite


class Matching(NamedTuple):
    """The factor of each latent, (D,) long, and the share of the code's variance that its classes explain, (D,)."""

    factor: Tensor
    strength: Tensor


def explained_variance(codes: Tensor, factors: Tensor) -> Tensor:
    """Return the share of the variance of each code that each factor's classes explain: (D, F) in [0, 1].

    ``codes`` (N, D), ``factors`` (N, F) whole-numbered classes. It is the R^2 of a regression on the classes as one-hot
    columns, so order, a circle and plain categories count alike, adjusted for the number of classes: without it a
    factor of many classes would seem to explain noise. 0 for a constant code and for a factor of one class.

    Raises:
        VaexError: when the shapes do not fit, or there are no more images than classes.

    Source: adjusted R^2 of a one-way analysis of variance (Ezekiel, 1930; epsilon squared, Kelley, 1935).
    """
    if codes.dim() != 2 or factors.dim() != 2 or len(codes) != len(factors):
        raise VaexError(
            f"Codes must be (N, D) and factors (N, F) of one N, got {tuple(codes.shape)} and {tuple(factors.shape)}."
        )
    count = len(codes)
    centred = codes.double() - codes.double().mean(0)
    total = centred.square().sum(0)  # (D,)
    noise = count * (torch.finfo(codes.dtype).eps * codes.double().abs().amax(0)).square()  # rounding of a constant
    columns = []
    for factor in factors.T:
        classes, which = factor.unique(return_inverse=True)
        if len(classes) >= count:
            raise VaexError(
                f"A factor has {len(classes)} classes among {count} images, so nothing can be matched: take more."
            )
        sums = torch.zeros(len(classes), codes.shape[1], dtype=torch.float64, device=codes.device)
        sums.index_add_(0, which, centred)
        sizes = torch.bincount(which, minlength=len(classes)).to(sums)[:, None]
        within = total - (sums.square() / sizes).sum(0)  # (D,)
        left = within / (count - len(classes)) / (torch.where(total > noise, total, 1.0) / (count - 1))
        columns.append(torch.where(total > noise, 1 - left, 0.0).clamp(0, 1))
    return torch.stack(columns, 1)


def match_factors(codes: Tensor, factors: Tensor) -> Matching:
    """Return for each latent the factor that explains most of its variance; two latents may share one.

    ``codes`` (N, D) and ``factors`` (N, F) are of held-out images, drawn from all combinations of the factors.

    Raises:
        VaexError: as `explained_variance`.
    """
    strength, factor = explained_variance(codes, factors).max(1)
    return Matching(factor, strength)


def changed_pixels(before: Tensor, after: Tensor) -> Tensor:
    """Return where two batches of images (B, C, H, W) differ in any channel: (B, H, W) bool.

    Raises:
        VaexError: when the shapes differ.
    """
    if before.shape != after.shape or before.dim() != 4:
        raise VaexError(
            f"Images to compare must be two batches (B, C, H, W) of one shape, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}."
        )
    return (before != after).any(1)


def _one_by_one(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    check_finite(maps)
    if masks.shape != maps.shape:
        raise VaexError(f"Each map needs a mask of its own: maps are {tuple(maps.shape)}, masks {tuple(masks.shape)}.")
    return maps.abs().flatten(0, 1)[:, None], masks.to(maps.device).flatten(0, 1)[:, None]


def pointing_hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Return whether the maximum of each |map| lies in the mask of its own: (B, T), as `pointing_game`.

    ``maps`` and ``masks`` (B, T, H, W), masks with values above one half inside.

    Raises:
        VaexError: when the shapes differ, or a map is not finite.
    """
    return pointing_game(*_one_by_one(maps, masks)).view(maps.shape[:2])


def energy_in_masks(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each |map| that lies in the mask of its own: (B, T) in [0, 1], as `energy_inside`.

    ``maps`` and ``masks`` (B, T, H, W), masks with values above one half inside.

    Raises:
        VaexError: when the shapes differ, or a map is not finite.
    """
    return energy_inside(*_one_by_one(maps, masks)).view(maps.shape[:2])


class FactorPointing(Metric):
    """Averages of `pointing_hits`, `energy_in_masks` and the masks' share of the image, for each of T latents.

    A pair of image and latent with an empty mask (a step that changes no pixel) stays out. Merging adds sums.
    """

    is_differentiable = False
    full_state_update = False

    hits: Tensor
    energy: Tensor
    area: Tensor
    count: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        for name in ("hits", "energy", "area", "count"):
            self.add_state(name, default=torch.zeros(latents, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Take in maps and masks (B, T, H, W) of a batch.

        Raises:
            VaexError: when the shapes differ, T is not that of before, or a map is not finite.
        """
        hits, energy = pointing_hits(maps, masks), energy_in_masks(maps, masks)
        if maps.shape[1] != len(self.count):
            raise VaexError(f"FactorPointing measures {len(self.count)} latents, got maps of {maps.shape[1]}.")
        inside = masks.to(self.device) > 0.5
        shown = inside.flatten(2).any(2)  # (B, T)
        self.count += shown.sum(0)
        for state, values in (
            (self.hits, hits),
            (self.energy, energy),
            (self.area, inside.double().mean((2, 3))),
        ):
            state.add_((values.to(self.device, torch.float64) * shown).sum(0))

    def compute(self) -> dict[str, Tensor]:
        """Return ``pointing_game``, ``energy_inside`` and ``chance``, (T,) each; NaN for a latent without a mask.

        ``chance`` is what a uniform map earns in both.
        """
        return {
            "pointing_game": self.hits / self.count,
            "energy_inside": self.energy / self.count,
            "chance": self.area / self.count,
        }
