"""`FeatureVAEModule`: a feature VAE under Lightning, whose whitening is fitted before the first step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import default_collate

from vaex.attention.isolation import eager
from vaex.data.normal import NormalImages
from vaex.errors import VaexError
from vaex.modules.vae import VAEModule, normal_part
from vaex.networks import FeatureVAE
from vaex.networks.whitening import PositionWhitening
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.types import Batch

CACHE_BYTES = 2 << 30
"""Most memory for kept features: those of an image take 2 K h w bytes, 0.5 MiB as published, so 4096 images."""

BATCH = 8
"""Images whose features are computed together; more are not faster on a CPU."""

FITTED_IMAGES = 512
"""Most images that the whitening at each position is fitted to where features are not kept."""

log = logging.getLogger(__name__)


class KeptFeatures(NamedTuple):
    """What is encoded of the training images, in half precision on the CPU."""

    rows: dict[int, int]
    """Row of each image by its ``index`` in a batch."""
    values: Tensor  # (N, K, h, w)

    def of(self, batch: Batch, key: str = "index") -> Tensor | None:
        """Return the features of a batch, (B, K, h, w), None where one of its images is not known.

        With ``key`` clean_index they are those of the images without pasted defects.
        """
        index: Any = batch.get(key)
        rows = [None] if index is None else [self.rows.get(number) for number in index.tolist()]
        return None if None in rows else self.values[rows]


def is_augmented(data: Any, dataset: Any) -> bool:
    """Return whether training images differ from epoch to epoch.

    A data module tells so by an attribute ``augmented``, a data set by ``counts_epochs``.
    """
    return bool(getattr(data, "augmented", False) or getattr(dataset, "counts_epochs", False))


def image_batches(dataset: Any, name: str, defects: bool = False) -> Iterator[Batch]:
    """Yield the batches of ``dataset`` in its order, their normal images alone, or, with ``defects``, all.

    Normal are images labelled 0, or all where there are no labels.

    Raises:
        VaexError: when its batches hold no image; ``name`` is that of the data module.
    """
    for start in range(0, len(dataset), BATCH):
        positions = list(range(start, min(start + BATCH, len(dataset))))
        whole = hasattr(dataset, "__getitems__")
        batch = dataset.__getitems__(positions) if whole else default_collate([dataset[at] for at in positions])
        if not isinstance(batch, Mapping) or "image" not in batch:
            raise VaexError(f"A feature VAE needs batches with an image, which {name} does not give.")
        found = cast("Batch", batch) if defects else normal_part(cast("Batch", batch))
        if found is not None:
            yield found


class FeatureVAEModule(VAEModule):
    """Train a feature VAE (``network`` feature_vae or feature_grid), otherwise as `VAEModule`.

    Before the first step one pass over the normal training images fits the whitening. Where they are not augmented
    (`is_augmented`), this pass also keeps their features, at most `CACHE_BYTES`, and training takes them by the
    ``index`` of a batch instead of running the backbone. A resumed run keeps its whitening and finds the same features
    again. The weights of the backbone are in no checkpoint.

    Raises:
        VaexError: for a network without features; without a data module, unless the whitening is fitted already.
    """

    vae: FeatureVAE
    kept: KeptFeatures | None = None
    """Features of the training images while they are trained on."""

    def setup(self, stage: str) -> None:
        """Let the backbone see each image once: validations, calibration and test ask for the same ones again."""
        if isinstance(self.vae, FeatureVAE):
            self.vae.remember()

    def on_fit_start(self) -> None:
        """Fit what is not fitted, and compute the features that are kept."""
        super().on_fit_start()
        if not isinstance(self.vae, FeatureVAE):
            raise VaexError(
                f"FeatureVAEModule trains feature VAEs, but network={self.hparams['network'].get('name')} is of "
                "pixels; use VAEModule, or network=feature_vae."
            )
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.kept = self.prepared(data)
        elif not self.vae.ready:
            raise VaexError(
                "The whitening of features is fitted to the normal images of a data module: call "
                "trainer.fit(module, datamodule=...), or module.vae.fit_whitening(...) before it."
            )

    def on_fit_end(self) -> None:
        """Let go of the features."""
        self.kept = None

    @torch.no_grad()
    def prepared(self, data: Any) -> KeptFeatures | None:
        """Fit the whitening to the normal training images of ``data``; return their features where they are kept.

        An objective that learns from defects keeps those of the images with defects too, whitened by `cross_fitted`.
        """
        images = NormalImages(data)
        defects = "mask" in self.objective.needs
        dataset = images.whole if defects else images.dataset
        size = 2 * len(dataset) * self.vae.backbone.channels * self.vae.backbone.grid**2  # bytes
        if is_augmented(data, dataset) or size > CACHE_BYTES:
            if not self.vae.ready:
                self._fit_in_passes(images)
            return None
        log.info("Computing the features of %d training images, %d MB.", len(dataset), size // 1_000_000)
        found: list[Tensor] = []
        order: list[int] = []
        clean: list[int] = []
        labels: list[int] = []
        for batch in image_batches(dataset, images.name, defects):
            found.append(self._raw(batch["image"]).half().cpu())
            order += batch["index"].tolist() if "index" in batch else []
            clean += batch["clean_index"].tolist() if "clean_index" in batch else []
            labels += batch["label"].flatten().tolist() if "label" in batch else [0] * len(found[-1])
        normal = (torch.tensor(labels) == 0).nonzero().flatten()  # rows
        if not len(normal):
            raise VaexError(f"{images.name} has no normal training images; check the images and their labels.")
        values, every = torch.cat(found), torch.arange(len(labels))
        fit = not self.vae.ready
        if fit:
            self.vae.fit_whitening(values[part].float() for part in normal.split(BATCH))
        self._in_place(self.vae.whitening, values, every)
        rows = {index: row for row, index in enumerate(order)}
        if self.vae.position is not None:
            if fit:
                self.vae.fit_position(values if len(normal) == len(values) else values[normal])
            if defects and len(normal) >= 4 and len(clean) == len(values):
                self.cross_fitted(self.vae.position, values, normal, torch.tensor([rows[index] for index in clean]))
            else:
                self._in_place(self.vae.position, values, every)
        # Not where an index is missing or twice
        return KeptFeatures(rows, values) if len(rows) == len(values) else None

    def cross_fitted(self, position: PositionWhitening, values: Tensor, normal: Tensor, clean: Tensor) -> None:
        """Whiten ``values`` (N, K, h, w) in place, each half of the images by what is normal in the other half.

        What a whitening was fitted to looks more normal to it than other images do, and a copy with a defect less so
        than its image. ``normal`` (M,) are the rows of the normal images, ``clean`` (N,) the row of the normal image
        that each row comes from, with which it stays together.
        """
        half = torch.zeros(len(values), dtype=torch.long)
        half[normal[1::2]] = 1
        half = half[clean]
        halves = []
        for number in (0, 1):
            halves.append(copy.deepcopy(position))
            halves[number].fit(values[normal[half[normal] != number]])
        for number in (0, 1):  # all are fitted before any is used
            self._in_place(halves[number], values, (half == number).nonzero().flatten())

    def _fit_in_passes(self, images: NormalImages) -> None:
        batches = image_batches(images.dataset, images.name)
        self.vae.fit_whitening(self._raw(batch["image"]) for batch in batches)
        if self.vae.position is not None:
            sample = NormalImages(self.trainer.datamodule, FITTED_IMAGES, BATCH)  # type: ignore[attr-defined]
            self.vae.fit_position(torch.cat([self.vae.whitening(self._raw(pixels)).half() for pixels in sample]))

    def _place(self) -> torch.device:
        return next(self.vae.parameters()).device

    def _raw(self, pixels: Tensor) -> Tensor:
        return self.vae.raw_features(pixels.to(self._place()))

    def _in_place(self, transform: torch.nn.Module, values: Tensor, rows: Tensor) -> None:
        for part in rows.split(BATCH):  # a copy of all would take the memory twice
            values[part] = transform(values[part].to(self._place()).float()).to(values)

    def looked_at(self, batch: Batch) -> Batch:
        """Return the batch with the features of its ``clean`` images in their place."""
        if "clean" not in batch or not self.objective.needs:
            return batch
        found = batch.copy()
        kept = None if self.kept is None or not self.trainer.training else self.kept.of(batch, "clean_index")
        with torch.no_grad():
            found["clean"] = self.vae.features(batch["clean"]) if kept is None else kept.to(batch["image"])
        return found

    def _terms(self, batch: Batch, step: int = AFTER_TRAINING) -> Terms:
        # The indices of validation images are those of other training images
        features = None if self.kept is None or step == AFTER_TRAINING else self.kept.of(batch)
        if features is None:
            return super()._terms(batch, step)
        images, keep = batch["image"], self.objective.keep
        with ExitStack() as stack:
            if keep:  # a term of activations differentiates twice
                stack.enter_context(eager())
            output = self.vae(images, keep=keep, sample=True, features=features.to(images))
            return self.objective(images, output, step, self.looked_at(batch))
