"""Images listed as records - file, split, label, mask, kind of defect - and the three splits made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.checked import call_checked
from vaex.data.anomalies import KINDS, Recipe, paste_defects
from vaex.data.tiling import Tile
from vaex.errors import VaexError
from vaex.types import Batch

GOOD = "good"
"""Group of normal images, always the first."""

ANOMALOUS = "anomalous"
"""Group of anomalous images whose kind is not known."""

SYNTHETIC = tuple(f"synthetic_{kind}" for kind in KINDS)
"""Groups of the images with a pasted defect, one for each of `vaex.data.anomalies.KINDS`."""

TRAINING = 0x7EA1
"""Sets the seeds of defects in training images apart from those in validation."""

SPLITS = ("train", "val", "test")


class Record(NamedTuple):
    """One image file and what is known about it."""

    path: Path
    split: str  # train, val, test
    label: int  # 1: anomalous
    group: str  # kind of defect; GOOD where label is 0
    mask: Path | None = None  # file that shows where the defect is; of a normal image one that may mark nothing
    listed: str = ""  # table and line, where a normal image has a mask
    tile: Tile | None = None  # part of the image that this is; None: all of it


class Augment(Protocol):
    """What changes pictures (C, H, W) uint8 and their masks (H, W) uint8, by a seed alone."""

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return both, changed."""


class Gallery(NamedTuple):
    """All records of a data module, one for each tile where images are cut, and their pixels; the splits share it."""

    records: tuple[Record, ...]
    images: Any  # (N, C, H, W) uint8, an array or what is indexed like one
    masks: Any  # (M, 1, H, W) uint8 of 0 and 1, of the records that have a mask, in order
    group_names: tuple[str, ...]


class RecordSet:
    """One split: the ``rows`` of a gallery that belong to it, gathered a batch at a time.

    A batch holds ``image`` (B, C, H, W) float32 in [0, 1], ``label``, ``group``, ``index`` (B,), the position in this
    split, and ``mask`` (B, 1, H, W), zero for normal images; there is no ``mask`` where an anomalous image of the split
    has none. Of tiles ``image_of`` (B,) says which image of the split each is of, counted from 0. Index
    ``i + (e + 1) * len(self)`` is image ``i`` augmented as in epoch ``e`` (the training sampler counts so); index ``i``
    is the image as it is, or with ``always`` augmented the same way every time.
    """

    def __init__(
        self,
        gallery: Gallery,
        rows: Sequence[int],
        augment: Augment | None = None,
        always: bool = False,
        seed: int = 0,
    ) -> None:
        self.gallery, self.augment, self.always, self.seed = gallery, augment, always, seed
        self.group_names = gallery.group_names
        self.rows = np.asarray(rows, dtype=np.int64)
        self.records = tuple(gallery.records[row] for row in self.rows.tolist())
        has = np.array([record.mask is not None for record in gallery.records], dtype=bool)
        self._mask_rows = np.where(has, np.cumsum(has) - 1, -1)[self.rows] if len(self.rows) else self.rows
        self.labels = torch.tensor([record.label for record in self.records], dtype=torch.long)
        self.groups = torch.tensor([gallery.group_names.index(r.group) for r in self.records], dtype=torch.long)
        self.image_of = _image_of(self.records)
        self.has_masks = all(record.mask is not None or not record.label for record in self.records)

    @property
    def counts_epochs(self) -> bool:
        """Whether the training sampler shall tell the epoch in the index."""
        return self.augment is not None and not self.always

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        rounds, positions = np.divmod(np.asarray(indices, dtype=np.int64), max(len(self), 1))
        images = np.ascontiguousarray(self.gallery.images[self.rows[positions]])  # (B, C, H, W)
        masks = self._masks(positions, images.shape)
        if self.augment is not None:
            changed = [
                self.augment(image, mask[0], (self.seed, int(turn), int(position))) if turn or self.always else None
                for image, mask, turn, position in zip(images, masks, rounds, positions, strict=True)
            ]
            for row, pair in enumerate(changed):
                if pair is not None:
                    images[row], masks[row, 0] = pair
        batch: Batch = {
            "image": torch.from_numpy(images).to(torch.float32).div_(255),  # (B, C, H, W)
            "label": self.labels[positions],
            "group": self.groups[positions],
            "index": torch.from_numpy(positions),
        }
        if self.has_masks:
            batch["mask"] = torch.from_numpy(masks).to(torch.float32)  # (B, 1, H, W)
        if self.image_of is not None:
            batch["image_of"] = torch.from_numpy(self.image_of[positions])
        return batch

    def _masks(self, positions: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        masks = np.zeros((shape[0], 1, *shape[2:]), dtype=np.uint8)
        rows = self._mask_rows[positions]
        if (rows >= 0).any():
            masks[rows >= 0] = self.gallery.masks[rows[rows >= 0]]
        return masks


def _image_of(records: Sequence[Record]) -> NDArray[np.int64] | None:
    """Return which image each tile is of, (N,), counted from 0; None where images are not cut."""
    if not any(record.tile for record in records):
        return None
    known: dict[Path, int] = {}
    return np.array([known.setdefault(record.path, len(known)) for record in records], dtype=np.int64)


class PastedSource(Protocol):
    """Normal images with masks, to paste defects into."""

    group_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch: ...


class PastedSet:
    """Every normal image of ``source`` followed by ``copies`` with a defect pasted by their position and ``seed``.

    A copy has label 1, the group in `SYNTHETIC` of its kind and the mask of what was changed. The same copy always gets
    the same defect, in every process and batch, unless the source counts epochs: then each epoch pastes others. Besides
    what the source gives, a batch holds ``clean`` (B, C, H, W), the images without defects, ``clean_index`` (B,), and
    ``kind`` (B,), the position in `vaex.data.anomalies.KINDS` of what was pasted, -1 for a normal image. The copies of
    the tiles of an image are by ``image_of`` those of another image.
    """

    def __init__(self, source: PastedSource, seed: int = 0, copies: int = 1, recipe: Recipe | None = None) -> None:
        self.source, self.seed, self.every, self.recipe = source, seed, copies + 1, recipe or Recipe()
        self.records = tuple(record for record in getattr(source, "records", ()) for _ in range(self.every))
        self.groups = torch.tensor([source.group_names.index(group) for group in SYNTHETIC])

    @property
    def counts_epochs(self) -> bool:
        """Whether the training sampler shall tell the epoch in the index."""
        return bool(getattr(self.source, "counts_epochs", False))

    def __len__(self) -> int:
        return self.every * len(self.source)

    def __getitems__(self, indices: list[int]) -> Batch:
        # An index is that of the source times `every`, also where it counts epochs
        batch = self.source.__getitems__([index // self.every for index in indices])
        given = torch.as_tensor(indices, dtype=torch.long)
        batch["clean"], batch["index"] = batch["image"], given % max(len(self), 1)
        batch["clean_index"] = batch["index"] - given % self.every
        if "image_of" in batch:  # that of the tiles without a defect stays a normal one
            batch["image_of"] = batch["image_of"] * self.every + given % self.every
        pasted = given % self.every > 0
        batch["kind"] = torch.full_like(given, -1)
        if pasted.any():
            batch["image"] = batch["image"].clone()
            seeds = [_mixed(self.seed, i) for i in given[pasted].tolist()]
            result = paste_defects(batch["image"][pasted], seeds, **vars(self.recipe))
            _put(batch["image"], pasted, result.images)
            _put(batch["mask"], pasted, result.masks)
            batch["label"][pasted] = 1
            batch["group"][pasted] = self.groups[result.kinds]
            batch["kind"][pasted] = result.kinds
        return batch


def _mixed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def checked_recipe(copies: int, recipe: Mapping[str, Any] | None) -> Recipe:
    """Check ``data.pasted`` and return ``data.recipe``, what is pasted.

    Raises:
        VaexError: when the first is no whole number of at least 0, or a key or value of the second is not known.
    """
    if type(copies) is not int or copies < 0:
        raise VaexError(f"data.pasted must be a whole number of copies, 0 or more, got {copies!r}.")
    checked: Recipe = call_checked("data.recipe", Recipe, recipe or {})
    return checked


def with_pasted(source: Any, copies: int, seed: int, recipe: Recipe | None = None) -> Any:
    """Return training images of ``source`` with ``copies`` of each that show a defect; 0: the source itself.

    The defects are others than those of validation images at the same positions.

    Raises:
        VaexError: when some of the source show defects of their own.
    """
    if copies and bool(getattr(source, "labels", torch.zeros(1)).any()):
        raise VaexError(
            "data.pasted is for normal training images, and some of these are labelled anomalous; set it to 0."
        )
    return PastedSet(source, _mixed(seed, TRAINING), copies, recipe) if copies else source


def _put(target: Tensor, where: Tensor, values: Tensor) -> None:
    target[where] = values.to(target.dtype)


def check_masks(records: Sequence[Record]) -> None:
    """Refuse images that share the mask that was found by their name.

    Raises:
        VaexError: when two do, as NAME.jpg and NAME.png.
    """
    owners: dict[Path, Path] = {}
    for record in records:
        if record.mask is not None and (first := owners.setdefault(record.mask, record.path)) != record.path:
            raise VaexError(
                f"{first} and {record.path} share the mask {record.mask}; rename one of the images and give it a mask "
                "of its own."
            )


def hold_out(rows: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return ``rows`` in two sorted parts: those that are left, and ``fraction`` of them, at least one, held out.

    At least two ``rows`` are needed.
    """
    count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(rows[i] for i in order[count:]), sorted(rows[i] for i in order[:count])


def group_names(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the groups of ``records``: good first, kinds of defect in order of name, pasted ones last."""
    kinds = {record.group for record in records} - {GOOD, *SYNTHETIC}
    return (GOOD, *sorted(kinds), *SYNTHETIC)
