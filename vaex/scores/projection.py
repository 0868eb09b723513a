"""VAE-grad: walk the image to what the VAE can explain; how far each pixel had to go is the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.scores.evidence import Evidence
from vaex.scores.score import Score


@dataclass(frozen=True)
class Projection(Score):
    """Distance |x_0 - x_n| that ``steps`` of gradient descent move each pixel, summed over channels.

    The energy is |x - f(x)|^2 + ``closeness`` |x - x_0|, f the reconstruction with z = mean; each step is ``rate``
    times its gradient times (x - f(x))^2, so that pixels that are reconstructed well stay. It costs ``steps`` forward
    and backward passes of the whole VAE.

    Source: Dehaene et al., "Iterative energy-based projection on a normal data manifold for anomaly localization",
        ICLR 2020, Eq. 6 and 7.
    Differs: the authors stop by the reconstruction loss; here the number of steps is fixed, so that scores compare.

    Raises:
        VaexError: for fewer than 1 step.
    """

    steps: int = 20
    rate: float = 0.5
    closeness: float = 0.05

    name: ClassVar = "projection"
    reads: ClassVar = ("reconstruction", "model")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise VaexError(f"Option steps of score 'projection' must be at least 1, got {self.steps}.")

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        model: Any = evidence.model
        if evidence.reconstruction is None or not hasattr(model, "encode") or not hasattr(model, "decode"):
            raise VaexError("score=projection needs a VAE of images with encode and decode; use score=attention.")
        with torch.inference_mode(False), torch.enable_grad():
            start = evidence.images.detach().clone()
            moved = start
            for _ in range(self.steps):
                moved = self._step(model, start, moved)
        return (start - moved).abs().sum(1, keepdim=True)

    def _step(self, model: Any, start: Tensor, moved: Tensor) -> Tensor:
        current = moved.detach().requires_grad_()
        error = (current - model.decode(model.encode(current).mean).mean).square()
        energy = error.sum() + self.closeness * (current - start).abs().sum()
        (gradient,) = torch.autograd.grad(energy, current)
        following: Tensor = (current - self.rate * gradient * error).detach().clamp(0, 1)
        return following
