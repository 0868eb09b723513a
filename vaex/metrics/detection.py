"""How well one number per image tells anomalous images from normal ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from vaex.errors import VaexError, unknown
from vaex.metrics.parts import checked_numbers, of_images
from vaex.metrics.ranking import auroc, average_precision, checked


class DetectionMetrics(Metric):
    """AUROC and average precision of several scores at once, over all images and all processes.

    ``names`` are the scores that every `update` brings, for instance ``["reconstruction", "kl"]``. Every image is kept
    as one float64 per score and one label, so memory is O(images) and the numbers are exact. An image that is seen
    twice counts twice: use a sampler that does not pad. Where scores are those of parts of images, such as tiles,
    `update` takes of which images they are: then an image scores as its highest part, whichever process saw it.

    Raises:
        VaexError: no name, or the same name twice.

    Examples:
        >>> metric = DetectionMetrics(["kl"])
        >>> metric.update({"kl": torch.tensor([0.1, 7.0, 0.3])}, torch.tensor([0, 1, 0]))
        >>> metric.compute()["image_auroc_kl"].item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    labels: list[Tensor]
    images: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = [names] if isinstance(names, str) else list(names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise VaexError(f"DetectionMetrics needs distinct score names, got {self.names}: name each score once.")
        self.add_state("scores", default=[], dist_reduce_fx="cat")  # each (B * len(names),), image by image
        self.add_state("labels", default=[], dist_reduce_fx="cat")  # each (B,)
        self.add_state("images", default=[], dist_reduce_fx="cat")  # each (B,), none where scores are of whole images

    def update(self, scores: Mapping[str, Tensor], labels: Tensor, images: Tensor | None = None) -> None:
        """Take in a batch: ``scores`` maps every name to (B,) on any scale, ``labels`` (B,) is 1 for anomalous.

        ``images`` (B,), whole numbers, say of which image each is a part; they are the same in all processes. An image
        scores as its highest part and is anomalous when one part is.

        Raises:
            VaexError: a score is unknown, missing, of another length or NaN, a label is not 0 or 1, or ``images`` came
                with some updates alone.
        """
        for name in scores:
            if name not in self.names:
                raise unknown("score", name, self.names)
        for name in self.names:
            if name not in scores:
                raise VaexError(
                    f"Score '{name}' is missing from this update, which brought {sorted(scores)}: "
                    "pass every score that DetectionMetrics was made with."
                )
            checked(scores[name], labels, f"score '{name}'")
        seen, numbered = (sum(map(len, state)) for state in (self.labels, self.images))
        numbers = checked_numbers(images, len(labels), seen, numbered)
        columns = [scores[name].detach().to(self.device, self._exact) for name in self.names]
        self.scores.append(torch.stack(columns, dim=1).flatten())  # (B * len(names),)
        self.labels.append(labels.detach().to(self.device, self._exact))
        self.images.append(numbers.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return ``image_auroc_<name>`` and ``image_ap_<name>`` of every score, scalars in [0, 1].

        They are NaN, with no exception, as long as only one class (or no image at all) was seen.

        Raises:
            VaexError: of some scores it is known of which image they are a part, and of others not.
        """
        seen = len(self.labels) > 0  # lists before the processes are merged, tensors after
        columns = dim_zero_cat(self.scores) if seen else torch.empty(0)
        labels = dim_zero_cat(self.labels) if seen else torch.empty(0)
        images = dim_zero_cat(self.images) if seen else torch.empty(0)
        labels = of_images(labels, images)
        result: dict[str, Tensor] = {}
        for name, column in zip(self.names, columns.reshape(-1, len(self.names)).unbind(1), strict=True):
            column = of_images(column, images)
            result[f"image_auroc_{name}"] = torch.tensor(auroc(column, labels), device=self.device)
            result[f"image_ap_{name}"] = torch.tensor(average_precision(column, labels), device=self.device)
        return result

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather all processes; one that saw no image sends an empty tensor of the type that the others send."""
        if len(self.labels) == 0:  # torchmetrics would send float32, and gathering mixed types fails
            self.scores = [torch.empty(0, device=self.device, dtype=self._exact)]
            self.labels = [torch.empty(0, device=self.device, dtype=self._exact)]
            self.images = [torch.empty(0, device=self.device, dtype=torch.int64)]
        super().sync(*args, **kwargs)

    @property
    def _exact(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64  # mps has no float64
