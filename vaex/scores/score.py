"""The base of all scores: a map of the picture, smoothed, and one number out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from vaex.errors import VaexError, unknown
from vaex.scores.evidence import Evidence, Scored
from vaex.scores.smoothing import enlarge

POOLS = ("sum", "max", "mean")
"""How the number of an image comes out of its score map."""


class Fitter(Protocol):
    """What a detector learns from normal images, batch by batch."""

    def take(self, evidence: Evidence) -> None:
        """Take in a batch of normal training images."""

    def state(self, held_out: Sequence[Evidence]) -> dict[str, Any]:
        """Return plain tensors and values; choices are made by ``held_out``, normal images that were not taken in."""


@runtime_checkable
class DefectFitter(Fitter, Protocol):
    """One that also learns from defects, pasted on held-out images."""

    def take_defects(self, evidence: Evidence, masks: Tensor) -> None:
        """Take in a batch of held-out images with a defect each, inside ``masks`` (B, 1, H, W) of 0 and 1."""


@dataclass(frozen=True)
class Score:
    """One kind of score with its options.

    ``sigma`` is the standard deviation in pixels of the Gaussian that smooths the score map, 0 for none, ``pool`` how
    the map becomes a number (sum, max or mean), ``label`` the name it is logged by, by default that of the score.

    Raises:
        VaexError: for a negative sigma or an unknown pool.
    """

    sigma: float = 0.0
    pool: str = "sum"
    label: str = ""

    name: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ("maps",)  # fields of the evidence, and what to say where one is missing
    calibrated: ClassVar[bool] = False  # whether it needs a calibrated model
    compares_maps: ClassVar[bool] = False  # whether it needs maps of the kind that calibration has seen
    own_map: ClassVar[bool] = True  # False: the map is that of another score, only the number is its own
    fit_options: ClassVar[tuple[str, ...]] = ()  # options that decide what is fitted

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise unknown(f"pool of score '{self.name}'", self.pool, POOLS)
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, int | float) and not value >= 0:
                raise VaexError(f"Option {option.name} of score '{self.name}' must be 0 or more, got {value}.")

    @property
    def known_as(self) -> str:
        """Name in logs, tables and calibration."""
        return self.label or self.name

    @property
    def bases(self) -> Sequence[Score]:
        """Other scores that it is made of, which must be fitted before."""
        return ()

    def over(self, base: Score) -> Score:
        """Return this score made of ``base`` where it names that score alone."""
        return self

    def as_options(self) -> dict[str, Any]:
        """Return name and options as a mapping, those of the default left out."""
        chosen = {
            item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) != item.default
        }
        return {"name": self.name, **chosen}

    @property
    def fit_reads(self) -> tuple[str, ...]:
        """Fields of the evidence that the fit looks at."""
        return self.reads

    def fitter(self) -> Fitter | None:
        """Return what fits this score to normal images; None where there is nothing to fit."""
        return None

    def fitted(self, evidence: Evidence) -> Mapping[str, Any]:
        """Return what was fitted for this score.

        Raises:
            VaexError: when nothing was, or with other options.
        """
        found = ((evidence.calibration or {}).get("detectors") or {}).get(self.known_as)
        if not isinstance(found, Mapping):
            others = ", ".join((evidence.calibration or {}).get("detectors") or {})
            raise VaexError(
                f"score={self.known_as} was not fitted to normal images for this model"
                f"{f', only {others}' if others else ''}; run `vaex calibrate ckpt=... score={self.name}`."
            )
        seen = found.get("options") or {}
        now = self.options_of_fit()
        differ = [
            f"{name}={seen[name]} and not {value}" for name, value in now.items() if seen.get(name, value) != value
        ]
        if differ:
            raise VaexError(
                f"score={self.known_as} was fitted with {', '.join(differ)}; give the same, or run `vaex calibrate "
                f"ckpt=... score={self.name}` with the new ones."
            )
        return found

    def options_of_fit(self) -> dict[str, Any]:
        """Return the options that decide what is fitted."""
        return {name: getattr(self, name) for name in self.fit_options}

    def missing(self, evidence: Evidence) -> bool:
        """Return whether the evidence lacks what this score looks at."""
        if any(getattr(evidence, name) is None for name in self.reads):
            return True
        if self.fitter() is not None:
            return self.known_as not in ((evidence.calibration or {}).get("detectors") or {})
        return self.calibrated and not evidence.calibration

    def measure(self, evidence: Evidence) -> Tensor:
        """Return the score map (B, 1, h, w) at any size, before smoothing."""
        raise NotImplementedError

    def number(self, evidence: Evidence, score_map: Tensor) -> Tensor:
        """Return the number of each image (B,) for its smoothed map (B, 1, H, W)."""
        flat = score_map.flatten(1)
        return flat.amax(1) if self.pool == "max" else flat.sum(1) if self.pool == "sum" else flat.mean(1)

    def __call__(self, evidence: Evidence) -> Scored:
        """Return score map, at the size of the images, and number; of evidence that keeps what is known, once."""
        if evidence.known is None:
            return self._scored(evidence)
        name = repr(self)
        if name not in evidence.known:
            evidence.known[name] = self._scored(evidence)
        found: Scored = evidence.known[name]
        return found

    def _scored(self, evidence: Evidence) -> Scored:
        height, width = evidence.images.shape[-2:]
        score_map = enlarge(self.measure(evidence), (int(height), int(width)), self.sigma)
        return Scored(score_map, self.number(evidence, score_map))


def need(part: Tensor | None, sentence: str) -> Tensor:
    """Return ``part``.

    Raises:
        VaexError: with ``sentence``, when the evidence lacks it.
    """
    if part is None:
        raise VaexError(sentence)
    return part
