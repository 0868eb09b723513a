"""What maps are asked, whatever made them, and how finely."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness.perturbing import Trials, removal_changes, square_masks, subset_masks
from vaex.metrics.faithfulness.removal import Values


@dataclass(frozen=True)
class Settings:
    """How finely is measured: steps of deletion and insertion, trials, their sizes, noisy images, seed of all draws.

    ``squares`` squares of side ``side`` (a share of the shorter side of the image) are for infidelity; ``subsets``
    subsets for each of ``shares`` of the cells of ``cell`` pixels for sensitivity-n.

    Raises:
        VaexError: for a number below 1, or a share outside (0, 1).
    """

    steps: int = 16
    squares: int = 32
    side: float = 0.25
    subsets: int = 32
    shares: tuple[float, ...] = (0.05, 0.25, 0.5)
    cell: int = 4
    radius: float = 0.02
    samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("steps", "squares", "subsets", "cell", "samples")}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise VaexError(
                    f"{name} of the faithfulness measures must be a whole number of at least 1, got {value}."
                )
        for share in (self.side, *self.shares):
            if not 0 < share < 1:
                raise VaexError(f"side and shares of the faithfulness measures lie between 0 and 1, got {share}.")
        if not self.shares or not self.radius > 0:
            raise VaexError("The faithfulness measures need at least one share and a radius above 0.")


@dataclass(frozen=True)
class Question:
    """What maps of a batch are asked, whatever made them; what is None is not asked.

    ``images`` (B, C, H, W); ``values`` what the T maps are of, and ``fill`` what pixels are replaced with, (B, C, H, W)
    or (B, T, C, H, W), both for deletion, insertion, infidelity and sensitivity-n; ``masks`` (B, T, H, W) or
    (B, 1, H, W) of the truth; ``response`` (B, T, H, W) of the decoder. Ask one question of all methods: what the loss
    of pixels does is found once.
    """

    images: Tensor
    targets: int
    values: Values | None = None
    fill: Tensor | None = None
    masks: Tensor | None = None
    response: Tensor | None = None
    settings: Settings = field(default_factory=Settings)

    def _trials(self, masks: Tensor) -> Trials | None:
        if self.values is None or self.fill is None:
            return None
        return Trials(masks, removal_changes(self.values, self.images, self.fill, masks, self.targets))

    @cached_property
    def squares(self) -> Trials | None:
        """What the loss of random squares does."""
        size, chosen = self.images.shape[2:], self.settings
        side = max(1, round(chosen.side * min(size)))
        return self._trials(square_masks(chosen.squares, side, size, chosen.seed))

    @cached_property
    def subsets(self) -> list[Trials | None]:
        """What the loss of random subsets does, one entry for each size."""
        size, chosen = self.images.shape[2:], self.settings
        drawn = [
            subset_masks(chosen.subsets, share, size, chosen.cell, chosen.seed + place)
            for place, share in enumerate(chosen.shares)
        ]
        return [self._trials(masks) for masks in drawn]


def as_maps(maps: Any) -> Tensor:
    """Return maps of any tool, a tensor or an array, as a tensor of floating point without a graph.

    Raises:
        VaexError: for anything else.
    """
    if not isinstance(maps, Tensor):
        if not hasattr(maps, "__array__"):
            raise VaexError(f"Maps must be a tensor or an array (B, T, H, W), got {type(maps).__name__}.")
        maps = torch.as_tensor(np.array(maps))
    found: Tensor = maps.detach() if maps.requires_grad else maps
    return found if found.is_floating_point() else found.float()


@dataclass(frozen=True)
class Answer:
    """Maps of the question's images, and what else can be asked of their maker; what is None is not measured.

    ``maps`` (B, T, H, W), a tensor or an array as all maps; ``signed`` the same before rectification, for measures that
    add up (leave it out for a maker of rectified maps); ``explain`` gives the maps of other images, for the stability;
    ``randomised`` yields the maps of networks whose weights were drawn anew step by step.
    """

    maps: Tensor
    signed: Tensor | None = None
    explain: Callable[[Tensor], Tensor] | None = None
    randomised: Iterable[Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", as_maps(self.maps))
        if self.signed is not None:
            object.__setattr__(self, "signed", as_maps(self.signed))
