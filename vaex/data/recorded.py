"""The data module that MVTec, Folder and Ped1 share: from records to cached pixels and three splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.checked import call_checked
from vaex.data.cache import CACHE_FOLDER, PLACES, content_digest, content_digests
from vaex.data.gallery import check_tiled, make_gallery
from vaex.data.images import checked_white
from vaex.data.module import ImageDataModule
from vaex.data.records import Gallery, PastedSet, Record, RecordSet, checked_recipe, group_names, hold_out, with_pasted
from vaex.data.remembered import by_content
from vaex.data.tiling import check_tile
from vaex.data.transforms import Augmentation
from vaex.errors import VaexError, unknown

_log = logging.getLogger(__name__)


class RecordedImages(ImageDataModule):
    """Image files listed by `find_records`, decoded and resized once, in three splits.

    Validation images are held out of the normal training images unless the records name normal ones; with
    ``synthetic`` each comes a second time with a pasted defect, unless some show defects themselves. The test split is
    not looked at before the test.

    Args:
        root: folder that the files lie below, ``~`` stands for one's own; the checksum names files by their path in it.
        size: height and width in pixels that every image is stretched to; masks too, see `read_mask`.
        channels: 3 for colour, which a grey image is repeated to, or 1 for grey.
        val_fraction: share of the normal training images, in (0, 1), held out for validation, chosen by ``seed``.
        synthetic: give validation a copy of each image with a pasted defect, label 1 and mask.
        pasted: copies of each training image with a pasted defect, label 1 and mask, for objectives that learn from
            them; always the same ones, unless the images are augmented.
        recipe: which defects those of ``pasted`` are, options of `vaex.data.anomalies.Recipe`; None: all. The copies of
            validation have all kinds whatever it says, so that runs of different recipes have one judge.
        cache: where the uint8 pixels are kept: ``memory``, or ``disk``, memory-mapped.
        cache_dir: folder of ``cache="disk"``; None: `CACHE_FOLDER` in ``root``.
        augmentation: options of `vaex.data.transforms.Augmentation`, or None.
        white: value that is white in grey files wider than 8 bits, such as 4095 for 12 bits; None: 65535, or 1 in files
            of floating-point numbers.
        tile: side in pixels of the tiles that images are cut into, after they are split; each is then an image of
            ``size``, cut and stretched as `vaex explain tile=` does, and anomalous where its mask marks something.
            None: images are whole.
        overlap: pixels that tiles share, at most half a tile.

    Raises:
        VaexError: when an argument is out of range, and what reading the files raises.
    """

    train_set: RecordSet | PastedSet
    val_set: RecordSet | PastedSet
    test_set: RecordSet

    def __init__(
        self,
        root: Path,
        size: int,
        channels: int,
        val_fraction: float,
        synthetic: bool,
        pasted: int,
        recipe: Mapping[str, Any] | None,
        cache: str,
        cache_dir: str | None,
        augmentation: Mapping[str, Any] | None,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        pin_memory: bool,
        drop_last: bool,
        seed: int,
        white: float | None,
        tile: int | None = None,
        overlap: int = 32,
    ) -> None:
        if type(size) is not int or not 8 <= size <= 4096:
            raise VaexError(f"data.size must be a whole number of pixels from 8 to 4096, got {size!r}.")
        if channels not in (1, 3):
            raise VaexError(f"data.channels must be 3 (colour) or 1 (grey), got {channels!r}.")
        if type(val_fraction) is not float or not 0 < val_fraction < 1:
            raise VaexError(f"data.val_fraction must be between 0 and 1, both excluded, got {val_fraction!r}.")
        self.pasted, self.recipe = pasted, checked_recipe(pasted, recipe)
        if cache not in PLACES:
            raise unknown("data.cache", cache, PLACES)
        super().__init__((channels, size, size), batch_size, eval_batch_size, num_workers, pin_memory, drop_last, seed)
        self.root, self.val_fraction, self.synthetic, self.cache = expanded(root), val_fraction, synthetic, cache
        self.cache_dir = expanded(cache_dir) if cache_dir else self.root / CACHE_FOLDER
        self.white = checked_white(white)
        if tile is not None:
            check_tile(tile, overlap, "data.")
        self.tile, self.overlap = tile, overlap
        self.augmentation = call_checked("augmentation", Augmentation, augmentation or {})
        self.augmentation.check_channels(channels)
        self._records: tuple[Record, ...] | None = None
        self._digests: dict[Path, bytes] | None = None

    def find_records(self) -> Sequence[Record]:
        """List the images; training images may all have the split ``train``."""
        raise NotImplementedError

    @property
    def records(self) -> tuple[Record, ...]:
        """Every image, with its final split; it is the same for all of its tiles."""
        if self._records is None:
            records = list(self.find_records())
            normal = [row for row, record in enumerate(records) if record.split == "train"]
            if not any(record.split == "val" and not record.label for record in records):
                if len(normal) < 2:
                    found = f"{len(normal)} normal image{'s' * (len(normal) != 1)}"
                    raise VaexError(f"{self.root} has {found} to train on; training and validation need one each.")
                for row in hold_out(normal, self.val_fraction, self.seed)[1]:
                    records[row] = records[row]._replace(split="val")
            elif not normal:
                raise VaexError(f"{self.root} has no normal image to train on; give at least one the split train.")
            if self.tile is not None:
                check_tiled(records)
            self._records = tuple(records)
        return self._records

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names that ``group`` of a batch counts: good, kinds of defect, and kinds of pasted defect."""
        return group_names(self.records)

    @property
    def checksum(self) -> str:
        """SHA-256 over names and contents of the image and mask files, not of how they are split or resized."""
        return content_digest([(_below(file, self.root), file) for file in self._files()], self._contents())

    @property
    def remembered(self) -> dict[str, str]:
        """By split what its images are known by, whatever their names and places; see `vaex.data.remembered`."""
        return by_content(self.records, self._contents())

    def _contents(self) -> dict[Path, bytes]:
        if self._digests is None:
            self._digests = content_digests(self._files())
        return self._digests

    def _files(self) -> list[Path]:
        return [file for record in self.records for file in (record.path, record.mask) if file is not None]

    def prepare_data(self) -> None:
        """Check that the files are there; with ``cache="disk"`` decode them."""
        if self.cache == "disk":
            self._gallery()
        else:
            self.records  # noqa: B018 - listing is checking

    def setup(self, stage: str | None = None) -> None:
        """Decode the images once, and split them."""
        if hasattr(self, "train_set"):
            return
        gallery = self._gallery()
        train, val, test = (self._split(gallery, split) for split in ("train", "val", "test"))
        # Where the user's own validation images show defects, none are pasted on top
        self.val_set = PastedSet(val, self.seed) if self.synthetic and not val.labels.any() else val
        self.train_set, self.test_set = with_pasted(train, self.pasted, self.seed, self.recipe), test
        if unknown_masks := sum(record.mask is None for record in test.records if record.label):
            told = f"{unknown_masks} of the {int(test.labels.sum())} anomalous test images have no mask"
            _log.warning("%s: only whole images are judged, no pixels.", told)

    def _split(self, gallery: Gallery, split: str) -> RecordSet:
        rows = [row for row, record in enumerate(gallery.records) if record.split == split]
        if not self.augmentation.options or self.augmentation.split != split:
            return RecordSet(gallery, rows)
        return RecordSet(gallery, rows, self.augmentation, always=split != "train", seed=self.seed)

    def _gallery(self) -> Gallery:
        folder = self.cache_dir if self.cache == "disk" else None
        channels, height, width = self.shape
        return make_gallery(self.records, (channels, height, width), self.white, folder, self.tile, self.overlap)


def expanded(path: str | Path) -> Path:
    """Return a path in which a leading ``~`` is the folder of its user, where there is such a user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for users that are not known


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
