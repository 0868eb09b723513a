"""The torchmetrics class that averages the measures of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from vaex.errors import VaexError
from vaex.metrics.faithfulness.measures import MEASURES, named_measures
from vaex.metrics.faithfulness.question import Answer, Question, as_maps
from vaex.metrics.overlap import check_finite


class FaithfulnessMetrics(Metric):
    """Averages of the measures ``names`` (None: all) of ``targets`` maps per image, over images, then over maps.

    Deletion and insertion weigh an image by how far the fill moves its value, so that images whose value hardly depends
    on what is replaced do not decide; all others weigh images alike. A map without a number (an empty mask, a latent
    that the decoder ignores) stays out. Merging adds sums.

    Raises:
        VaexError: for an unknown measure, or fewer than 1 map.

    Examples:
        >>> metric = FaithfulnessMetrics(1, ["deletion"])
        >>> image, left = torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
        >>> asked = Question(image, 1, lambda seen: seen[:, :, 0].sum(2), torch.zeros(1, 1, 2, 2))
        >>> metric.update(asked, Answer(left))
        >>> round(float(metric.compute()["deletion"]), 3)
        0.344
    """

    is_differentiable = False
    full_state_update = False

    totals: Tensor
    weights: Tensor

    def __init__(self, targets: int, names: Sequence[str] | None = None) -> None:
        super().__init__()
        if targets < 1:
            raise VaexError(f"FaithfulnessMetrics measures at least 1 map per image, got {targets}.")
        self.targets, self.names = targets, named_measures(names)
        for name in ("totals", "weights"):
            zeros = torch.zeros(len(self.names), targets, dtype=torch.float64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, question: Question, answer: Answer | Tensor | NDArray[Any] | Callable[[Tensor], Any]) -> None:
        """Take in a batch: an `Answer`, or its maps (B, T, H, W), or a callable that takes images to them.

        Maps are tensors or arrays. Those of a callable are taken to be rectified; give `Answer.signed` for the measures
        that add up.

        Raises:
            VaexError: when shapes do not fit, or a map or value is not finite: nothing is left out of an average for
                being NaN.
        """
        if not isinstance(answer, Answer) and callable(answer):
            with torch.enable_grad():  # switched off for updates, and most makers of maps need it
                answer = Answer(answer(question.images), explain=answer)
        elif not isinstance(answer, Answer):
            answer = Answer(as_maps(answer))
        check_finite(answer.maps)
        if answer.maps.shape[1] != self.targets or question.targets != self.targets:
            raise VaexError(
                f"FaithfulnessMetrics measures {self.targets} maps per image, got {answer.maps.shape[1]} for a "
                f"question of {question.targets}."
            )
        if answer.signed is not None and answer.signed.shape != answer.maps.shape:
            raise VaexError(
                f"Signed maps must be {tuple(answer.maps.shape)} like the maps, got {tuple(answer.signed.shape)}."
            )
        for place, name in enumerate(self.names):
            found = MEASURES[name].of(question, answer)
            if found is not None:
                self.totals[place] += found.total.to(self.totals)
                self.weights[place] += found.weight.to(self.weights)

    def per_target(self) -> dict[str, Tensor]:
        """Return each measure of each map, (T,), NaN where it had nothing to measure."""
        values = self.totals / torch.where(self.weights > 0, self.weights, torch.nan)
        return dict(zip(self.names, values, strict=True))

    def compute(self) -> dict[str, Tensor]:
        """Return scalars by name, means over the maps that have a number; what was never asked is absent."""
        return {name: values.nanmean() for name, values in self.per_target().items() if not bool(values.isnan().all())}
