"""How much each latent carries: its KL and how far its code moves, over all images seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from vaex.errors import VaexError


def active_latents(kl: Tensor, threshold: float = 0.01) -> Tensor:
    """Return which latents carry information: (D,) bool, true with a mean KL over images above ``threshold`` nats.

    ``kl`` (B, D) in nats, of a prior that factorises over latents.

    Raises:
        VaexError: ``kl`` is not (B, D) with at least one image.
    """
    if kl.ndim != 2 or kl.shape[0] == 0:
        raise VaexError(f"KL must be (B, D) with at least one image, got {tuple(kl.shape)}: one number per latent.")
    return kl.mean(0) > threshold


def active_units(means: Tensor, threshold: float = 0.01) -> Tensor:
    """Return which latents move with the image: (D,) bool, true where the variance of ``means`` (N, D) is above 0.01.

    The variance is the population's, over the images given; take some thousands.

    Raises:
        VaexError: ``means`` is not (N, D) with at least one image.

    Source: Burda, Grosse and Salakhutdinov, ICLR 2016, "Importance Weighted Autoencoders", section 5.2.
    """
    if means.ndim != 2 or means.shape[0] == 0:
        raise VaexError(f"Means must be (N, D) with at least one image, got {tuple(means.shape)}: pass the codes.")
    return means.var(0, correction=0) > threshold


class LatentMetrics(Metric):
    """Mean KL and variance of the posterior means of each latent, and how many are active units.

    A unit is active where the variance of its mean over the images is above ``threshold``; of a latent grid, the
    average of the variances of its cells. Sums in double precision where the device has it; merging adds them.

    Source: Burda, Grosse & Salakhutdinov, ICLR 2016, "Importance Weighted Autoencoders", section 5.2 (threshold 0.01).
    Differs: grids are not treated there.

    Raises:
        VaexError: ``threshold`` is negative.
    """

    is_differentiable = False
    full_state_update = False

    sums: list[Tensor]
    length: Tensor
    latents: Tensor
    stated: Tensor

    def __init__(self, threshold: float = 0.01) -> None:
        super().__init__()
        if not threshold >= 0:
            raise VaexError(f"The variance above which a unit is active must be 0 or more, got {threshold}.")
        self.threshold = threshold
        # Their length is known from the first batch on, so they are a list of one vector
        self.add_state("sums", default=[], dist_reduce_fx="cat")  # (1 + D + 2 D cells,): images, KL, means, squares
        for name in ("length", "latents", "stated"):  # of that vector, their number, and whether a KL was given
            self.add_state(name, default=torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, means: Tensor, kl: Tensor | None = None) -> None:
        """Take in posterior means (B, D) or (B, D, h, w), and their KL (B, D) in nats where it is known.

        Raises:
            VaexError: for another shape, or other latents than before.
        """
        if means.dim() not in (2, 4) or (kl is not None and kl.shape != means.shape[:2]):
            raise VaexError(
                f"Means must be (B, D) or (B, D, h, w) and their KL (B, D), got {tuple(means.shape)} and "
                f"{None if kl is None else tuple(kl.shape)}."
            )
        count = means.shape[1]
        double = torch.float32 if means.device.type == "mps" else torch.float64
        cells = means.detach().to(double).flatten(2) if means.dim() == 4 else means.detach().to(double)[..., None]
        nats = cells.new_zeros(count) if kl is None else kl.detach().to(double).sum(0)
        images = cells.new_tensor([float(len(means))])
        found = torch.cat([images, nats, cells.sum(0).flatten(), cells.square().sum(0).flatten()]).to(self.device)
        if self.sums and found.shape != self.sums[0].shape:
            raise VaexError(f"LatentMetrics saw {int(self.latents)} latents before and {count} now.")
        self.sums = [torch.stack([*self.sums, found]).sum(0)]
        self.length = torch.full_like(self.length, len(found))
        self.latents = torch.full_like(self.latents, count)
        self.stated = torch.full_like(self.stated, int(kl is not None))

    def compute(self) -> dict[str, Tensor]:
        """Return ``active_units``, ``variance`` (D,) and, where it was given, ``kl`` (D,) in nats; {} for no image."""
        latents = int(self.latents)
        if not latents:
            return {}
        total = dim_zero_cat(self.sums).reshape(-1, int(self.length)).sum(0)
        images, rest = total[0], total[1:]
        kl, moments = rest[:latents] / images, rest[latents:].reshape(2, latents, -1) / images
        variance = (moments[1] - moments[0].square()).clamp(min=0).mean(1)  # (D,)
        result = {"active_units": (variance > self.threshold).sum().float(), "variance": variance.float()}
        return result | ({"kl": kl.float()} if self.stated else {})

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather all processes; one that saw no image sends an empty tensor."""
        if len(self.sums) == 0:
            self.sums = [torch.empty(0, dtype=torch.float64, device=self.device)]
        super().sync(*args, **kwargs)
