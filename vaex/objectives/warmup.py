"""Weights that grow during training, as functions of the optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

from vaex.errors import VaexError, unknown

KINDS = ("none", "linear", "cyclical")


@dataclass(frozen=True)
class Warmup:
    """Factor in [``start``, 1] of a loss weight.

    ``linear`` rises over ``steps`` optimiser steps and stays at 1. ``cyclical`` repeats ``cycles`` times a rise
    over ``proportion`` of ``steps / cycles`` followed by a plateau at 1, and stays at 1 after ``steps``.

    Source: linear, Bowman et al., CoNLL 2016; cyclical, Fu et al., NAACL 2019 (4 cycles, proportion 0.5).

    Raises:
        VaexError: for an unknown kind or a value out of range.
    """

    kind: str = "none"
    steps: int = 0
    start: float = 0.0
    cycles: int = 4
    proportion: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("warm-up kind", self.kind, KINDS)
        if self.kind != "none" and self.steps < 1:
            raise VaexError(f"objective.warmup.steps must be at least 1 for a {self.kind} warm-up, got {self.steps}.")
        if not 0 <= self.start <= 1 or not 0 < self.proportion <= 1 or self.cycles < 1:
            raise VaexError(
                "objective.warmup needs start in [0, 1], proportion in (0, 1] and cycles of at least 1, got "
                f"start={self.start}, proportion={self.proportion}, cycles={self.cycles}."
            )

    def __call__(self, step: int) -> float:
        """Return the factor at optimiser step ``step`` (0 is the first)."""
        if self.kind == "none" or step >= self.steps:
            return 1.0
        if self.kind == "linear":
            progress = step / self.steps
        else:
            period = self.steps / self.cycles
            progress = min((step % period) / period / self.proportion, 1.0)
        return self.start + (1 - self.start) * progress
