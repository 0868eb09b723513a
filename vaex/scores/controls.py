"""Controls: what a score is worth that does not look at the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from vaex.errors import VaexError
from vaex.scores.evidence import Evidence
from vaex.scores.score import Score


@dataclass(frozen=True)
class MeanMap(Score):
    """The mean of another score's maps over normal training images, for every image the same.

    A map that localises no better than this one says where defects tend to be, not where this image has one. ``of``
    names the other score, or is a mapping of its name and options.

    Raises:
        VaexError: for a score that is unknown, or is a mean map itself.
    """

    of: str | Mapping[str, Any] = "attention"

    name: ClassVar = "mean_map"
    reads: ClassVar = ()
    fit_options: ClassVar = ("of",)

    @property
    def base(self) -> Score:
        """The score whose maps are averaged."""
        from vaex.scores.registry import score_named  # the registry knows this module

        found = score_named(self.of)
        if isinstance(found, MeanMap):
            raise VaexError("score=mean_map cannot be the mean of itself; let `of` name another score.")
        return found

    @property
    def bases(self) -> Sequence[Score]:
        """The other score."""
        return (self.base,)

    def over(self, base: Score) -> Score:
        """Return the mean map of ``base`` where that is named alone."""
        return replace(self, of=base.as_options()) if self.of == base.known_as else self

    def options_of_fit(self) -> dict[str, Any]:
        """Return the other score as plain values, as a checkpoint keeps it."""
        return {"of": dict(self.of) if isinstance(self.of, Mapping) else str(self.of)}

    @property
    def fit_reads(self) -> tuple[str, ...]:
        """What the other score reads."""
        return self.base.reads

    def fitter(self) -> MeanFitter:
        """Return what averages the maps."""
        return MeanFitter(self)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        mean: Tensor = self.fitted(evidence)["mean"].to(evidence.images)  # (1, H, W)
        return mean.expand(evidence.images.shape[0], *mean.shape)  # len() would fix the batch of an export


class MeanFitter:
    """The average of the maps of the score that a `MeanMap` stands for."""

    def __init__(self, score: MeanMap) -> None:
        self.base = score.base
        self.total: Tensor | None = None
        self.count = 0

    def take(self, evidence: Evidence) -> None:
        """Take in a batch of normal images."""
        total = self.base(evidence).score_map.double().sum(0)  # (1, H, W)
        self.total = total if self.total is None else self.total + total
        self.count += len(evidence.images)

    def state(self, held_out: Sequence[Evidence]) -> dict[str, Any]:
        """Return the mean map (1, H, W)."""
        if self.total is None:
            raise VaexError("score=mean_map needs normal images to average over.")
        return {"mean": (self.total / self.count).float()}
