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


class Target:
    """A target that carries its parameters.

    ``total`` adds its latents up to one map, ``single`` has one map and no latents to choose from; of a target with
    ``draws`` the rectified maps of the draws are averaged.
    """

    total: ClassVar[bool] = False
    single: ClassVar[bool] = False
    draws: int = 1
    calibrated: ClassVar[bool] = False
    """Whether it compares with the codes of normal images, by default those that calibration left in the model."""

    def values(self, seen: Seen) -> Tensor:
        """Return (B, D), or (draws B, D) draw by draw; (B, 1) of a single one."""
        raise NotImplementedError


def seeded_noise(n: int, like: Tensor, seed: int) -> list[Tensor]:
    """Return ``n`` normal draws shaped like one image's ``like[0]``."""
    # the same for all images: otherwise a map would depend on the image's place in the batch
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(like.shape[1:], generator=generator, dtype=torch.float64).to(like) for _ in range(n)]
