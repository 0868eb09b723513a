"""How well score maps find the anomalous pixels, and image scores the anomalous images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from vaex.errors import VaexError
from vaex.metrics.evidence import all_parts, pixel_measures
from vaex.metrics.parts import checked_numbers, of_images
from vaex.metrics.pixel_input import checked_images, group_number, image_pixels, sorted_parts
from vaex.metrics.ranking import auroc, average_precision, checked
from vaex.metrics.sketch import DEPTH, Nodes, Pixels, compressed

STATES = {
    "image_table": torch.int64,  # of images whose pixels are kept, three each: part, normal and anomalous pixels
    "normal_keys": torch.int32,  # image by image
    "anomalous_keys": torch.int32,
    "anomalous_weights": torch.float64,  # two per anomalous pixel
    "image_scores": torch.float64,
    "image_parts": torch.int64,  # 0 where it is not known which pixels are anomalous
    "image_numbers": torch.int64,  # none where maps are of whole images
    "node_table": torch.int64,  # three per mass of the sketch: low, width, part
    "node_masses": torch.float64,  # four per mass
    "names": torch.uint8,  # of groups, each ending with a zero byte
}
PIXEL_STATES = tuple(STATES)[:4]


class LocalizationMetrics(Metric):
    """Pixel AUROC and AP, AUPRO, AUPIMO, best IoU, F1-max, and AUROC and AP of image scores, overall and per group.

    Maps and scores may have any scale: only their order counts. Scores are compared as float64, maps as float32: of
    wider types one that it cannot hold is refused, and a warning names the map where it cannot tell many values apart.
    AUPRO integrates to a false positive rate of ``max_fpr``, and a second time to 0.05. Processes are merged, not
    averaged: each number is that of all images. An image that is seen twice counts twice.

    Where maps are those of parts of images, such as tiles, `update` takes of which images they are. Then image AUROC
    and AP are those of whole images, whichever process saw their parts: an image scores as its highest part, is
    anomalous when one part is, and of every group that its anomalous parts have. Pixels stay those of the maps: one
    that several parts show counts in each.

    Up to ``exact_pixels`` pixels (default 2^24: 256 maps of 256 x 256) everything is exact. Beyond that, pixels are
    compressed to a sketch (`vaex.metrics.sketch`), and every pixel measure is within ``tolerance`` of the exact one,
    whatever the maps are: AUROC within a quarter of it, AUPRO and AUPIMO within half; average precision alone within
    ``tolerance * (1 + log(1 / tolerance))``. The bound is for the worst case; usual errors are a thousandth of it.
    At the defaults memory stays below 1 GB, for 2^24 pixels and a sketch that grows with the logarithm of all, beside
    16 bytes per image, 24 per part; image measures are always exact.

    Raises:
        VaexError: ``max_fpr`` or ``tolerance`` is out of range, or ``exact_pixels`` is below 1.

    Examples:
        >>> metric = LocalizationMetrics()
        >>> metric.update(torch.tensor([[[[0.1, 0.9], [0.2, 0.3]]]]), torch.tensor([[[[0, 1], [0, 0]]]]))
        >>> metric.compute()["pixel_auroc"].item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = True  # so that forward() goes through update(), which compresses

    normal_keys: list[Tensor]
    anomalous_keys: list[Tensor]
    anomalous_weights: list[Tensor]
    image_table: list[Tensor]
    image_scores: list[Tensor]
    image_parts: list[Tensor]
    image_numbers: list[Tensor]
    node_table: list[Tensor]
    node_masses: list[Tensor]
    names: list[Tensor]
    images: Tensor
    pending: Tensor

    def __init__(self, max_fpr: float = 0.3, exact_pixels: int = 2**24, tolerance: float = 0.005) -> None:
        super().__init__()
        for name, value in (("max_fpr", max_fpr), ("tolerance", tolerance)):
            if not 0 < value <= 1:
                raise VaexError(f"{name} of LocalizationMetrics must be above 0 and at most 1, got {value}.")
        if exact_pixels < 1:
            raise VaexError(f"exact_pixels of LocalizationMetrics must be at least 1, got {exact_pixels}.")
        self.max_fpr, self.exact_pixels, self.tolerance = max_fpr, exact_pixels, tolerance
        for name in STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        for name in ("images", "pending"):  # the latter counts pixels that are not compressed yet
            self.add_state(name, default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        score_maps: Tensor,
        masks: Tensor,
        scores: Tensor | None = None,
        groups: Sequence[str] | None = None,
        images: Tensor | None = None,
    ) -> None:
        """Take in a batch: ``score_maps`` and ``masks`` (B, 1, H, W), the latter above one half where anomalous.

        ``scores`` (B,) are the images', on any scale; without them the maximum of each map. ``groups`` (B,) name the
        kind of defect of each image; images with an empty mask are normal ones, and are compared with every group.
        ``images`` (B,), whole numbers, say of which image each map is a part; they are the same in all processes.

        Raises:
            VaexError: shapes do not fit, a group is no text, a map, mask or score holds NaN, a map a finite number
                beyond float32 (the message names the image), or ``images`` came with some updates alone.
        """
        batch = checked_images(score_maps, masks, scores, groups, int(self.images))
        numbers = self._numbers(images, len(batch.scores))
        for name in sorted(set(batch.groups) - {"", *self._names().values()}):
            self.names.append(self._kept(np.frombuffer(name.encode() + b"\0", np.uint8).copy()))
        parts = []
        for score_map, mask, name in zip(batch.maps, batch.masks, batch.groups, strict=True):
            pixels = image_pixels(score_map, mask, name)
            parts.append(pixels.part)
            row = np.array([pixels.part, len(pixels.normal), len(pixels.anomalous)])
            columns: list[NDArray[Any]] = [row, pixels.normal, pixels.anomalous, pixels.weights]
            for state, values in zip(PIXEL_STATES, columns, strict=True):
                getattr(self, state).append(self._kept(values))
            self.pending += mask.size
            self._limit()
        self._take_images(batch.scores, np.array(parts, np.int64), numbers)
        self.images += len(parts)

    def update_unmarked(self, scores: Tensor, images: Tensor) -> None:
        """Take in ``scores`` (B,) of anomalous parts of ``images`` (B,) of which it is not known where.

        They count for AUROC and AP of all images; an image without other anomalous parts is of no group.

        Raises:
            VaexError: shapes do not fit, a score holds NaN, or other updates came without ``images``.
        """
        values, _ = checked(scores, torch.ones_like(scores))
        numbers = self._numbers(images, len(values))
        self._computed = None  # torchmetrics does so, and counts, around update() alone
        self._update_count += 1
        self._take_images(values.cpu().numpy(), np.zeros(len(values), np.int64), numbers)

    def _numbers(self, images: Tensor | None, count: int) -> Tensor:
        seen, numbered = (sum(map(len, state)) for state in (self.image_scores, self.image_numbers))
        return checked_numbers(images, count, seen, numbered)

    def _take_images(self, scores: NDArray[np.float64], parts: NDArray[np.int64], numbers: Tensor) -> None:
        self.image_scores.append(self._kept(scores))
        self.image_parts.append(self._kept(parts))
        self.image_numbers.append(numbers.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return scalars in [0, 1], of all images, and of the images of each group together with all normal ones.

        The keys are ``pixel_auroc pixel_ap aupro aupro_005 aupimo best_iou f1_max image_auroc image_ap``, and for a
        group ``<key>/<group>``. Also ``f1_max_threshold``, in the unit of the maps: with F1-max, pixels that score at
        least so much are called anomalous.

        NaN stands where only one class was seen; ``aupimo`` is absent where no image was normal.

        Raises:
            VaexError: of some maps it is known of which image they are a part, and of others not.
        """
        names = self._names()
        parts = all_parts(self._pixels(), self._nodes())
        result = pixel_measures(parts, names, self.max_fpr)
        owners, numbers = self._state("image_parts"), self._state("image_numbers")
        scores, anomalous = (of_images(each, numbers) for each in (self._state("image_scores"), (owners >= 0).long()))
        for number, name in [(0, ""), *names.items()]:
            own = of_images((owners == number).long(), numbers) if number else anomalous
            if number and not bool(own.any()):
                continue
            chosen, end = (own > 0) | (anomalous == 0), f"/{name}" if number else ""
            result[f"image_auroc{end}"] = auroc(scores[chosen], anomalous[chosen])
            result[f"image_ap{end}"] = average_precision(scores[chosen], anomalous[chosen])
        return {key: torch.tensor(value, device=self.device) for key, value in result.items()}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather all processes; each state goes as one tensor of its own type, also where no image was seen."""
        for name in STATES:
            setattr(self, name, [self._kept(self._state(name).numpy())])
        super().sync(*args, **kwargs)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another metric has seen, or its states."""
        other: Mapping[str, Any] = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        for name in STATES:
            setattr(self, name, [*getattr(self, name), *other[name]])
        for name in ("images", "pending"):
            setattr(self, name, getattr(self, name) + other[name].to(self.device))
        self._computed = None  # what was computed before is no longer that of all
        self._limit()

    def _limit(self) -> None:
        """Compress when more pixels are held than shall be."""
        if int(self.pending) <= self.exact_pixels:
            return
        nodes = compressed(self._pixels(), self._nodes(), self.tolerance / (4 * DEPTH))
        for name in PIXEL_STATES:
            setattr(self, name, [])
        self.node_table = [self._kept(np.stack([nodes.low, nodes.width, nodes.part], 1))]
        self.node_masses = [self._kept(nodes.mass)]
        self.pending = torch.zeros_like(self.pending)

    def _pixels(self) -> list[Pixels]:
        table, normal, anomalous, weights = (self._state(name).numpy() for name in PIXEL_STATES)
        return sorted_parts(table.reshape(-1, 3), normal, anomalous, weights.reshape(-1, 2))

    def _nodes(self) -> Nodes:
        low, width, part = self._state("node_table").numpy().reshape(-1, 3).T
        return Nodes(low, width, part, self._state("node_masses").numpy().reshape(-1, 4))

    def _names(self) -> dict[int, str]:
        """Return the names of the groups by part, in the order of the alphabet."""
        names = bytes(self._state("names").numpy()).decode().split("\0")
        return {group_number(name): name for name in sorted(set(names)) if name}

    def _state(self, name: str) -> Tensor:
        """Return a state as one tensor on the CPU; states are lists before the processes are merged, tensors after."""
        values = getattr(self, name)
        return dim_zero_cat(values).cpu().to(STATES[name]) if len(values) else torch.empty(0, dtype=STATES[name])

    def _kept(self, values: NDArray[Any]) -> Tensor:
        flat = torch.from_numpy(values).flatten()
        if self.device.type == "mps" and flat.dtype == torch.float64:  # which mps lacks
            flat = flat.float()
        return flat.to(self.device)
