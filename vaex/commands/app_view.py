"""What is on the page of `vaex app`: one image, what was asked of it, and what the model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from vaex.commands.app_tiles import Whole
from vaex.commands.inspection import Verdict
from vaex.types import Explanation


class Asked(NamedTuple):
    """Which maps are drawn."""

    layer: Any
    method: Any
    target: Any


class Looked(NamedTuple):
    """What the model says of one image; tensors are on the CPU."""

    image: Tensor  # (1, C, H, W)
    explanation: Explanation  # with the options that the checkpoint is configured with
    maps: Tensor  # (1, T, H, W) as asked


@dataclass(frozen=True)
class View:
    """One image, what was asked of it, and where its latents were moved to; a change makes another view.

    Of a large image that is scored in tiles, all but its verdict is of one of them.
    """

    name: str
    size: tuple[int, int]  # (width, height) of the file
    asked: Asked
    own: Looked
    verdict: Verdict
    shown: tuple[int, ...]  # latents of highest KL, whose maps and sliders are on the page
    extra: int | None  # one more
    moved: tuple[tuple[int, float], ...] = ()  # latent, value
    decoded: Looked | None = None  # what the moved code decodes to; None where the model decodes no images
    whole: Whole | None = None  # the large image, where it is scored in tiles
    place: int = 0  # which of its tiles is looked at, 0 for the one of highest score

    @property
    def code(self) -> Tensor:
        """Posterior mean, (D,) or (D, h, w)."""
        return self.own.explanation.mean[0]

    @property
    def part(self) -> str:
        """What the pictures are of, in a word."""
        return "image" if self.whole is None else "tile"

    def latents(self) -> list[int]:
        """Return the latents on the page."""
        return [*self.shown, *([] if self.extra is None else [self.extra])]

    def value(self, latent: int) -> float:
        """Return where the slider of a latent stands, rounded as it is drawn."""
        return round(dict(self.moved).get(latent, float(self.code[latent])), 2)
