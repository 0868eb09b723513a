"""What a target is: an object that reads scalars off a code and carries its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from vaex.attention.outputs import Code

Reduce = str | tuple[int, int]


class Seen(NamedTuple):
    """What a target may look at."""

    code: Code
    reduce: Callable[[Tensor], Tensor]
    """Takes a latent grid (B, D, h, w) to (B, D)."""
    model: Any = None
    images: Tensor | None = None
    cells: Reduce = "sum"
    """What ``reduce`` does, by its name."""

    def variance(self, logvar: Tensor) -> Tensor:
        """Return the posterior variance (B, D), of a latent grid that of what ``reduce`` makes of its cells."""
        return reduced_variance(self.code.mean, logvar, self.reduce, self.cells)


def reduced_variance(mean: Tensor, logvar: Tensor, reduce: Callable[[Tensor], Tensor], cells: Reduce) -> Tensor:
    """Return the posterior variance (B, D) of a code, or of the code that ``reduce`` makes of a grid (B, D, h, w).

    The cells of a diagonal posterior are independent: of a sum their variances add up, and the cell with the largest
    mean has its own.
    """
    variance = logvar.exp()
    if variance.dim() == 4 and cells == "max":
        highest = mean.flatten(2).argmax(2, keepdim=True)
        return variance.flatten(2).gather(2, highest).squeeze(2)
    return reduce(variance)


class Target:
    """A target that carries its parameters.

    ``total`` adds its latents up to one map, ``single`` has no latents to choose from and one map, or one for each of
    its ``titles``; of a target with ``draws`` the rectified maps of the draws are averaged.
    """

    total: ClassVar[bool] = False
    single: ClassVar[bool] = False
    draws: int = 1
    calibrated: ClassVar[bool] = False
    """Whether it compares with the codes of normal images, by default those that calibration left in the model."""

    @property
    def titles(self) -> tuple[str, ...]:
        """Names of its maps, where they are of no single latent and have any."""
        return ()

    def values(self, seen: Seen) -> Tensor:
        """Return (B, D), or (draws B, D) draw by draw; of a single one (B, 1), or a column for each title."""
        raise NotImplementedError


def seeded_noise(n: int, like: Tensor, seed: int) -> list[Tensor]:
    """Return ``n`` normal draws shaped like one image's ``like[0]``."""
    # the same for all images: otherwise a map would depend on the image's place in the batch
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(like.shape[1:], generator=generator, dtype=torch.float64).to(like) for _ in range(n)]
