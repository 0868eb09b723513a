"""What attention maps look like: where they point, how spread they are, which latents are active.

As in `vaex.metrics.overlap`, only the positive part of a map counts, and a NaN in a map makes its measures NaN.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from vaex.errors import VaexError
from vaex.metrics.latents import active_latents
from vaex.metrics.overlap import (
    check_maps,
    filled_maps,
    groups,
    is_empty,
    mean_overlap,
    overlap_ratio,
    pairwise_overlap,
    positive_part,
    safe_ratio,
)

__all__ = [
    "MapMetrics",
    "energy_inside",
    "map_entropy",
    "mean_overlap",
    "overlap_ratio",
    "pairwise_overlap",
    "pointing_game",
]


def pointing_game(maps: Tensor, mask: Tensor) -> Tensor:
    """Return whether the maximum of each map lies in the mask: (B, T), 1 a hit, 0 a miss.

    ``maps`` (B, T, H, W), ``mask`` (B, 1, H, W) with values above one half inside. Several maximal pixels count by the
    share of them inside, so a flat map earns no more than chance. A map with nothing above zero points nowhere and is
    a miss; so is every map of an image whose mask is empty.

    Raises:
        VaexError: the shapes do not fit.

    Source: Zhang et al., ECCV 2016, "Top-down Neural Attention by Excitation Backprop".
    Differs: no tolerance of 15 pixels around the object, and ties by their share instead of the first pixel.
    """
    inside = _inside(maps, mask)
    peak = maps.amax((2, 3), keepdim=True)  # (B, T, 1, 1)
    top = maps == peak  # nowhere true for a map with NaN, whose share then is 0 / 0
    share = (top & inside).sum((2, 3)) / top.sum((2, 3))
    return torch.where(peak.flatten(1) <= 0, 0.0, share)


def energy_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Return the share of each map that lies in the mask, sum over mask of M+ / sum of M+: (B, T) in [0, 1].

    ``maps`` (B, T, H, W), ``mask`` (B, 1, H, W) with values above one half inside. 0 for an empty map; chance level is
    the mask's share of the image.

    Raises:
        VaexError: the shapes do not fit.

    Source: Wang et al., CVPR-W 2020, "Score-CAM", energy-based pointing game; the same as Quantus' relevance mass.
    """
    inside = _inside(maps, mask)
    positive = positive_part(maps)
    return safe_ratio((positive * inside).sum((2, 3)), positive.sum((2, 3)))


def map_entropy(maps: Tensor) -> Tensor:
    """Return how spread each map is: entropy of M+ / sum M+ in nats over log(H W), (B, T): 0 one pixel, 1 uniform.

    ``maps`` (B, T, H, W). An empty map is 1: it says as little about where as a uniform one, and so cannot pass for
    sharp.

    Raises:
        VaexError: the maps are not (B, T, H, W), or have a single pixel.
    """
    check_maps(maps)
    pixels = maps.shape[2] * maps.shape[3]
    if pixels < 2:
        raise VaexError(f"The entropy of a map needs more than one pixel, got maps of shape {tuple(maps.shape)}.")
    positive = positive_part(maps)
    mass = positive.sum((2, 3), keepdim=True)  # (B, T, 1, 1)
    entropy = torch.special.entr(safe_ratio(positive, mass)).sum((2, 3)) / math.log(pixels)  # (B, T)
    return torch.where(is_empty(mass).flatten(1), 1.0, entropy.clamp(max=1.0))


class MapMetrics(Metric):
    """Averages of the measures above over all images seen, by all processes; merging adds sums and loses nothing.

    Each image weighs the same, and so does each map of an image, whether its latent is active or not. One exception:
    `overlap_ratio` has no scale, so collapsed latents would fill ``overlap`` with noise; where ``kl`` tells two or more
    active ones (mean KL over the images above ``threshold`` nats, D = T) only pairs of these count, else all pairs, so
    that the curve of a training begins with its first validation.

    Raises:
        VaexError: ``threshold`` is negative.
    """

    is_differentiable = False
    full_state_update = False

    pairs: list[Tensor]
    filled: list[Tensor]
    kl: list[Tensor]
    targets: Tensor
    latents: Tensor
    images: Tensor
    entropy: Tensor
    masked: Tensor
    pointing: Tensor
    energy: Tensor

    def __init__(self, threshold: float = 0.01) -> None:
        super().__init__()
        if not threshold >= 0:
            raise VaexError(f"The KL threshold of an active latent must be at least 0 nats, got {threshold}.")
        self.threshold = threshold
        for name in ("images", "entropy", "masked", "pointing", "energy"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        # T and D are known from the first batch on, so these sums are lists of one vector; joined, they are added up.
        self.add_state("pairs", default=[], dist_reduce_fx="cat")  # (T * T,) sum of overlaps
        self.add_state("filled", default=[], dist_reduce_fx="cat")  # (T * T,) images in which neither map is empty
        self.add_state("kl", default=[], dist_reduce_fx="cat")  # (1 + D,) images counted, then the sum of each KL
        for name in ("targets", "latents"):
            self.add_state(name, default=torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, maps: Tensor, kl: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Take in a batch: ``maps`` (B, T, H, W), ``kl`` (B, D) in nats, ``mask`` (B, 1, H, W) of the truth.

        Leave ``kl`` out where the prior does not factorise over latents. Images with an empty mask (normal ones) have
        nothing to point at and stay out of ``pointing_game`` and ``energy_inside``.

        Raises:
            VaexError: shapes do not fit each other or earlier batches, or a map or KL is not finite.
        """
        check_maps(maps)
        maps = maps.detach()
        low, high = maps.amin((2, 3)), maps.amax((2, 3))  # (B, T) each, and NaN where a map holds NaN
        if broken := int((~(low.isfinite() & high.isfinite())).sum()):
            raise VaexError(
                f"{broken} of {maps.shape[0] * maps.shape[1]} attention maps hold NaN or infinity: "
                "look for a diverged model or an overflow in half precision."
            )
        if kl is not None and (kl.ndim != 2 or len(kl) != len(maps) or not bool(kl.isfinite().all())):
            raise VaexError(
                f"KL must be finite and of shape ({len(maps)}, D), one row per image, got {tuple(kl.shape)}: pass the "
                "KL of the same batch, each latent by itself."
            )
        inside = None if mask is None else _inside(maps, mask)
        self.targets = self._same(self.targets, maps.shape[1], "maps per image")
        self.images += len(maps)
        overlaps = pairwise_overlap(maps)  # (B, T, T)
        filled = filled_maps(overlaps).float()
        self.pairs = self._added(self.pairs, overlaps.sum(0))
        self.filled = self._added(self.filled, filled.T @ filled)
        for part in groups(maps):
            self.entropy += map_entropy(maps[part]).mean(1).sum().to(self.device)
        if kl is not None:
            self.latents = self._same(self.latents, kl.shape[1], "latents")
            sums = torch.nn.functional.pad(kl.detach().float().sum(0), (1, 0), value=len(kl))  # (1 + D,)
            self.kl = [torch.stack([*self.kl, sums.to(self.device)]).sum(0)]
        if mask is not None and inside is not None:
            shown = inside.flatten(1).any(1)  # (B,) images with something to point at
            self.masked += shown.sum().to(self.device)
            for part in groups(maps):
                for state, measure in ((self.pointing, pointing_game), (self.energy, energy_inside)):
                    state.add_(measure(maps[part], mask[part]).mean(1)[shown[part]].sum().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the scalars that the data allowed, the others absent.

        ``entropy`` and ``empty``, the share of maps with nothing above 0, always; ``overlap`` from two maps per image
        on, ``overlap_filled`` of the pairs of which neither map is empty; ``active_latents``, their number, with a KL;
        ``pointing_game`` and ``energy_inside`` once an image had a mask that is not empty. All but the number lie in
        [0, 1].
        """
        if self.images == 0:
            return {}
        result = {"entropy": self.entropy / self.images}
        targets, latents = int(self.targets), int(self.latents)
        chosen = torch.ones(targets, dtype=torch.bool, device=self.device)
        if latents:
            total = dim_zero_cat(self.kl).reshape(-1, 1 + latents).sum(0)
            active = active_latents(total[None, 1:] / total[0], self.threshold)  # (D,)
            result["active_latents"] = active.sum().float()
            chosen = active if latents == targets and int(active.sum()) > 1 else chosen
        filled = self._square(self.filled, chosen)
        result["empty"] = 1 - filled.diagonal().mean() / self.images
        if targets > 1:
            overlaps = self._square(self.pairs, chosen)
            rows, columns = torch.triu_indices(len(overlaps), len(overlaps), offset=1, device=self.device)
            result["overlap"] = overlaps[rows, columns].mean() / self.images
            if (both := filled[rows, columns].sum()) > 0:  # those with an empty map have added 0
                result["overlap_filled"] = overlaps[rows, columns].sum() / both
        if self.masked > 0:
            result["pointing_game"] = self.pointing / self.masked
            result["energy_inside"] = self.energy / self.masked
        return result

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather all processes; one that saw no image sends an empty tensor of the type that the others send."""
        if len(self.pairs) == 0:
            self.pairs, self.filled = [torch.empty(0, device=self.device)], [torch.empty(0, device=self.device)]
        if len(self.kl) == 0:
            self.kl = [torch.empty(0, device=self.device)]
        super().sync(*args, **kwargs)

    def _added(self, known: list[Tensor], more: Tensor) -> list[Tensor]:
        """Return the sums so far (T * T,) with ``more`` (T, T)."""
        return [torch.stack([*known, more.flatten().to(self.device, torch.float32)]).sum(0)]

    def _square(self, sums: list[Tensor], chosen: Tensor) -> Tensor:
        """Return the sums of all processes (T, T), of the latents ``chosen`` (T,) alone."""
        square = dim_zero_cat(sums).reshape(-1, len(chosen), len(chosen)).sum(0)
        return square[chosen][:, chosen]

    def _same(self, known: Tensor, count: int, what: str) -> Tensor:
        """Return ``count``, which must not change from batch to batch."""
        if int(known) not in (0, count):
            raise VaexError(f"MapMetrics saw {int(known)} {what} before and {count} now: use one metric for each.")
        return torch.full_like(known, count)


def _inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Return the mask as bool (B, 1, H, W)."""
    check_maps(maps)
    expected = (maps.shape[0], 1, *maps.shape[2:])
    if mask.shape != expected:
        raise VaexError(f"The mask must be (B, 1, H, W) = {expected} like the maps, got {tuple(mask.shape)}.")
    return mask.to(maps.device) > 0.5
