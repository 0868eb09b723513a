"""The normal images of a data module, in a fixed order, for what is fitted after training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from vaex.data.loading import is_batch
from vaex.errors import VaexError


class NormalImages:
    """The normal images of a split of a set-up data module in batches (B, C, H, W), at most ``most`` of them.

    ``split`` is train or val. Normal are images labelled 0, or all where there are no labels. All come in the order of
    the data set; of more than ``most`` images a sample is taken that is always the same. Nothing is drawn from the
    random stream, and the pass can be repeated. The length counts batches, at most. Where copies have pasted defects
    ``whole`` is the data set with them, ``dataset`` that without.

    Of images in tiles each tile counts as an image. With ``entire`` these are all tiles of at most ``most`` images
    without an anomalous one, mixed, and ``image_of`` (N,) says which image each is of; it is None where none are cut.

    Raises:
        VaexError: when the data module has no training images, or its batches hold none.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        most: int | None = None,
        batch_size: int = 64,
        split: str = "train",
        entire: bool = False,
    ) -> None:
        dataset: Any = getattr(data, f"{split}_set", None)
        if dataset is None:
            dataset = getattr(getattr(data, f"{split}_dataloader")(), "dataset", None)
        if dataset is None:
            raise VaexError(f"{type(data).__name__} has no {split} images to calibrate with; give it a {split}_set.")
        self.whole, self.dataset = dataset, getattr(dataset, "source", dataset)
        self.name, self.most, self.batch_size = type(data).__name__, most, batch_size
        self.workers = getattr(data, "num_workers", 0)

        self.image_of: Tensor | None = None
        self._order = list(range(len(self.dataset)))
        images = getattr(self.dataset, "image_of", None) if entire else None
        if images is not None:
            self._order, self.image_of = _entire(torch.from_numpy(images), self.dataset.labels, most)
            self.most = None
        elif most is not None and most < len(self._order):
            self._order = _mixed(len(self._order))  # a sample: the first ones could be all of one kind

    def __len__(self) -> int:
        return math.ceil(min(len(self._order), self.most or len(self._order)) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = self._order
        starts = range(0, len(order), self.batch_size)
        collate: Any = is_batch if hasattr(self.dataset, "__getitems__") else default_collate
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=[order[start : start + self.batch_size] for start in starts],
            collate_fn=collate,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),  # else the loader draws a seed from the global one
        )
        left = len(order) if self.most is None else self.most
        for batch in loader:
            if not isinstance(batch, Mapping) or "image" not in batch:
                raise VaexError(f"Calibration needs batches with an image, which {self.name} does not give.")
            images, labels = batch["image"], batch.get("label")
            images = (images if labels is None else images[labels.flatten() == 0])[:left]
            left -= len(images)
            if len(images):
                yield images
            if left <= 0:
                return


def _mixed(count: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order


def _entire(images: Tensor, labels: Tensor, most: int | None) -> tuple[list[int], Tensor]:
    """Return the positions of all tiles of normal images, and which image each is of; ``images`` (N,) says it of all.

    They are mixed: choices are made by the first ones, which would be of one image.
    """
    spoilt = images[labels != 0]
    normal = images.unique()
    normal = normal[~torch.isin(normal, spoilt)]
    if most is not None and most < len(normal):
        normal = normal[_mixed(len(normal))[:most]]
    order = torch.tensor(_mixed(len(images)), dtype=torch.long)
    order = order[torch.isin(images[order], normal)]
    return order.tolist(), images[order]
