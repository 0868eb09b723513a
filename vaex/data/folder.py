"""Images of one's own: a folder of normal ones, optionally abnormal ones and masks, or a table that lists them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from vaex.data.cache import CACHE_FOLDER
from vaex.data.images import composed, find_mask, images_in
from vaex.data.manifest import read_manifest
from vaex.data.recorded import RecordedImages, expanded
from vaex.data.records import ANOMALOUS, GOOD, Record, check_masks, hold_out
from vaex.errors import VaexError

TREE = """
  <normal_dir>/**/*.png           normal images (PNG, JPEG, BMP, TIFF ...), split into train, val and test
  <normal_test_dir>/**/*.png      optional: normal images for the test; then normal_dir is not split for it
  <abnormal_dir>/*.png            optional: images with defects, all for the test
  <abnormal_dir>/<defect>/*.png   the same by kind of defect
  <mask_dir>/[<defect>/]NAME.png  optional: masks named like the images, or NAME_mask.png
or a table: data.manifest=FILE.csv with the columns path,label,mask,split,group"""

MANIFEST_TREE = """
  {table}   one row per image
  {folder}/...   the images, where the column '{path}' of the table says"""


class Folder(RecordedImages):
    """Your own images: normal ones to train on, and optionally defective ones with or without masks to test on.

    ```python
    data = vaex.data.Folder(normal_dir="photos/good", abnormal_dir="photos/bad", mask_dir="photos/masks", size=256)
    data.setup()
    batch = next(iter(data.train_dataloader()))  # image (B, C, H, W) in [0, 1], label, group, index, mask
    ```

    Folders inside ``abnormal_dir`` are kinds of defect, the groups of the results; images directly in it are of the
    group "anomalous". Files that are no images, and links to folders, are ignored. Folders may lie inside each other: a
    file belongs to the innermost. Without masks a test batch has no ``mask``, and only whole images are judged.

    Args:
        root: folder that the paths below are relative to; None: the current folder, or for a manifest its own. In all
            paths ``~`` stands for one's own folder.
        folder: folder below ``root``, such as "visa".
        normal_dir: folder of normal images; what lies in folders below counts too.
        normal_test_dir: folder of normal images for the test; None: ``test_fraction`` of ``normal_dir``.
        abnormal_dir: folder of defective images, all for the test; None: the test has normal images only.
        mask_dir: folder of their masks, with the same folders inside; None: no masks. If given, every one needs a mask.
            It may be ``abnormal_dir`` itself, where the mask of NAME.png is NAME_mask.png.
        manifest: CSV file instead of the folders, see `read_manifest`.
        columns: names of the manifest's columns where they differ, such as ``{"path": "image"}``.
        where: values that a row of the manifest must have to count, such as ``{"object": "candle"}``.
        test_fraction: share of the normal images, in [0, 1), kept for the test; chosen by ``seed``.
        size: pixels of height and width. This and the remaining arguments are those of `RecordedImages`; without
            ``root`` a disk cache lies beside an absolute ``normal_dir``.

    Raises:
        VaexError: when nothing is named, a folder is missing or empty (the expected tree is told), two folders are the
            same, a file would be listed twice, two images share a mask, a mask is missing or of other proportions than
            its image, a row of the manifest is wrong, or a file cannot be read.
    """

    TEST_KEYS = ("test_fraction",)

    def __init__(
        self,
        root: str | None = None,
        folder: str = "",
        normal_dir: str | None = None,
        normal_test_dir: str | None = None,
        abnormal_dir: str | None = None,
        mask_dir: str | None = None,
        manifest: str | None = None,
        columns: Mapping[str, str] | None = None,
        where: Mapping[str, Any] | None = None,
        test_fraction: float = 0.2,
        size: int = 256,
        channels: int = 3,
        val_fraction: float = 0.1,
        synthetic: bool = True,
        pasted: int = 0,
        recipe: Mapping[str, Any] | None = None,
        cache: str = "memory",
        cache_dir: str | None = None,
        augmentation: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        white: float | None = None,
        tile: int | None = None,
        overlap: int = 32,
    ) -> None:
        if not 0 <= test_fraction < 1:
            raise VaexError(f"data.test_fraction must be at least 0 and below 1, got {test_fraction!r}.")
        base = Path(root or "") / folder
        manifest = manifest and str(expanded(manifest))
        if manifest and root is None and not folder:
            base = Path(manifest).parent
            manifest = Path(manifest).name
        self.dirs = {
            "normal_dir": normal_dir,
            "normal_test_dir": normal_test_dir,
            "abnormal_dir": abnormal_dir,
            "mask_dir": mask_dir,
        }
        if cache_dir is None and root is None and not folder and normal_dir and expanded(normal_dir).is_absolute():
            cache_dir = str(expanded(normal_dir).parent / CACHE_FOLDER)
        self.manifest, self.columns, self.where = manifest, dict(columns or {}), dict(where or {})
        self.test_fraction = test_fraction
        super().__init__(
            base,
            size=size,
            channels=channels,
            val_fraction=val_fraction,
            synthetic=synthetic,
            pasted=pasted,
            recipe=recipe,
            cache=cache,
            cache_dir=cache_dir,
            augmentation=augmentation,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=drop_last,
            seed=seed,
            white=white,
            tile=tile,
            overlap=overlap,
        )

    def find_records(self) -> Sequence[Record]:
        """List the images of the folders or of the manifest; what has no split yet gets one."""
        given = [name for name, value in self.dirs.items() if value]
        if self.manifest:
            if given:
                raise VaexError(f"data.manifest takes the place of data.{given[0]}; give only one of them.")
            table = self.root / self.manifest
            if not table.is_file():
                tree = MANIFEST_TREE.format(table=table, folder=self.root, path=self.columns.get("path", "path"))
                raise VaexError(f"There is no table {table}; check data.manifest; expected is{tree}")
            records = read_manifest(self.root / self.manifest, self.root, self.columns, self.where)
        else:
            records = self._listed()
        open_rows = [row for row, record in enumerate(records) if not record.split]
        held_out: set[int] = set()
        if self.test_fraction and len(open_rows) > 2 and not self.dirs["normal_test_dir"]:
            held_out = set(hold_out(open_rows, self.test_fraction, self.seed)[1])
        return [
            record._replace(split="test" if row in held_out else "train") if not record.split else record
            for row, record in enumerate(records)
        ]

    def _listed(self) -> list[Record]:
        if not self.dirs["normal_dir"]:
            raise VaexError(f"data=folder needs data.normal_dir, or data.manifest; expected is{TREE}")
        if self.dirs["mask_dir"] and not self.dirs["abnormal_dir"]:
            raise VaexError("data.mask_dir holds the masks of data.abnormal_dir, which is not given; set it too.")
        self._check_dirs()
        records = [Record(file, "", 0, GOOD) for file in self._images("normal_dir")]
        if self.dirs["normal_test_dir"]:
            records += [Record(file, "test", 0, GOOD) for file in self._images("normal_test_dir")]
        if self.dirs["abnormal_dir"]:
            records += self._abnormal()
        seen: dict[Path, Path] = {}
        for file in (record.path for record in records):
            if (first := seen.setdefault(Path(os.path.realpath(file)), file)) is not file:
                raise VaexError(f"{file} and {first} are the same image; remove one, or the link to it.")
        check_masks(records)
        return records

    def _check_dirs(self) -> None:
        places = {key: self._dir(key).resolve() for key, value in self.dirs.items() if value}
        for one, other in combinations(places, 2):
            if places[one] == places[other] and (one, other) != ("abnormal_dir", "mask_dir"):
                raise VaexError(
                    f"data.{one} and data.{other} are the same folder, {places[one]}; name a folder of its own for "
                    "each, or leave one out."
                )

    def _abnormal(self) -> list[Record]:
        files, folder, masks = self._images("abnormal_dir"), self._dir("abnormal_dir"), self._dir("mask_dir")
        beside = bool(self.dirs["mask_dir"]) and folder.resolve() == masks.resolve()
        if beside:  # what is the mask of another image is none itself
            known = {(file.parent, composed(file.stem)) for file in files}
            files = [
                f
                for f in files
                if not (f.stem.endswith("_mask") and (f.parent, composed(f.stem.removesuffix("_mask"))) in known)
            ]
        records = []
        for file in files:
            name, mask = file.relative_to(folder), None
            if self.dirs["mask_dir"] and (mask := find_mask(masks / name.parent, name.stem, beside)) is None:
                plain = masks / name.parent / name.stem
                expected = f"{plain}_mask.png" if beside else f"{plain}.png or {name.stem}_mask.png"
                raise VaexError(
                    f"{file} has no mask {expected}; add it, or leave data.mask_dir out to go without masks."
                )
            group = name.parts[0] if len(name.parts) > 1 else ANOMALOUS
            records.append(Record(file, "test", 1, group if group != GOOD else ANOMALOUS, mask))
        return records

    def _dir(self, key: str) -> Path:
        return self.root / expanded(self.dirs[key] or "")

    def _images(self, key: str) -> list[Path]:
        """Return the images of a folder, without those of the other folders where these lie inside it."""
        folder = self._dir(key)
        if not folder.is_dir():
            raise VaexError(f"data.{key} is {folder}, which is no folder; expected is{TREE}")
        place = folder.resolve()
        others = [self._dir(name).resolve() for name, value in self.dirs.items() if value and name != key]
        inner = [other for other in others if other != place and other.is_relative_to(place)]
        files = images_in(folder, deep=True)
        # A link lies where it lies, not where it leads
        kept = {parent for parent in {file.parent for file in files} if not _inside(parent.resolve(), inner)}
        files = [file for file in files if file.parent in kept]
        if not files:
            raise VaexError(f"data.{key}, {folder}, holds no images; expected is{TREE}")
        return files


def _inside(place: Path, folders: Sequence[Path]) -> bool:
    return any(place.is_relative_to(folder) for folder in folders)
