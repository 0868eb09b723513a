"""MVTec AD in its original folder layout: defects of fifteen textures and objects, with masks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.data.archives import unpack_archive
from vaex.data.download import fetch_file
from vaex.data.images import find_mask, images_in
from vaex.data.recorded import RecordedImages
from vaex.data.records import GOOD, Record, check_masks
from vaex.errors import AbsentDataError, VaexError, nearest, unknown

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
CATEGORIES = (*TEXTURES, *OBJECTS)

ARCHIVE = "mvtec_anomaly_detection.tar.xz"
URLS = (
    f"https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/{ARCHIVE}",
    f"https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f282/download/420938113-1629952094/{ARCHIVE}",
)
SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
"""Addresses and digest of the archive of all categories, 5,264,982,680 bytes.

Source: GitHub repository open-edge-platform/anomalib, src/anomalib/data/datamodules/image/mvtecad.py, for digest and
    second address; the first, and the same digest, from several public repositories. Not fetched by vaex's tests.
"""

LICENCE = (
    "MVTec AD is licensed CC BY-NC-SA 4.0: not for commercial use. Cite P. Bergmann, M. Fauser, D. Sattlegger, "
    "C. Steger, CVPR 2019."
)

TREE = """{folder}/
  train/good/*.png
  test/good/*.png
  test/<defect>/NNN.png
  ground_truth/<defect>/NNN_mask.png"""

_log = logging.getLogger(__name__)


class MVTec(RecordedImages):
    """One category of MVTec AD, or any folder of the same layout: train on good images, test on good and defective.

    ```python
    data = vaex.data.MVTec("data", category="bottle", size=256)  # data/mvtec/bottle/train/good ...
    data.prepare_data()
    data.setup()
    batch = next(iter(data.test_dataloader()))  # image, mask, label, group, index
    data.group_names[batch["group"][0]]  # "broken_large"
    ```

    Args:
        root: folder that ``folder`` lies in; ``${paths.data}`` in the configuration.
        category: folder of one kind of object or texture; one of `CATEGORIES` can be downloaded.
        folder: folder of the categories below ``root``.
        download: fetch the archive of all categories (5.3 GB) when the category is missing; its licence is told once.
        urls: addresses of that archive, tried in turn; None: `URLS`. A .zip, .tar.gz or .tar.xz with category folders
            at its top will do.
        sha256: its digest; None: `SHA256`.
        size: pixels of height and width. This and the remaining arguments are those of `RecordedImages`.

    Raises:
        VaexError: when the category does not exist (those present are listed), a folder of the layout is missing or
            empty, a defective image has no mask, or a file cannot be read.

    Source: P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, CVPR 2019. Licence of the images: CC BY-NC-SA 4.0.
    """

    def __init__(
        self,
        root: str = "data",
        category: str = "bottle",
        folder: str = "mvtec",
        download: bool = False,
        urls: Sequence[str] | None = None,
        sha256: str | None = None,
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
        if not category or Path(category).name != category:
            raise VaexError(f"data.category must be the name of one folder, got {category!r}.")
        if urls is not None and sha256 is None:
            raise VaexError("data.urls needs data.sha256, the digest of the archive that they give.")
        self.category, self.download = category, download
        self.urls, self.sha256 = tuple(urls or URLS), sha256 or SHA256
        super().__init__(
            Path(root) / folder,
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

    def prepare_data(self) -> None:
        """Fetch and unpack the archive if ``download`` is on and the category is missing; check the files."""
        if self.download and not (self.root / self.category).is_dir():
            if self.category not in CATEGORIES:
                raise unknown("data.category", self.category, CATEGORIES)
            _log.warning(LICENCE)
            advice = f"fetch it by hand from https://www.mvtec.com/company/research/datasets/mvtec-ad into {self.root}"
            archive = fetch_file(self.urls, self.root / ARCHIVE, sha256=self.sha256, advice=advice)
            names = unpack_archive(archive, self.root)
            _log.warning("Unpacked %s into %s; %s may be deleted.", ", ".join(names), self.root, archive.name)
        super().prepare_data()

    def find_records(self) -> Sequence[Record]:
        """List train/good and the folders below test, each with its masks."""
        folder = self._category_folder()
        normal = images_in(folder / "train" / GOOD)
        kinds = sorted(path for path in _folders(folder / "test") if images_in(path))
        for images, missing in ((normal, "train/good"), (kinds, "test")):
            if not images:
                raise VaexError(f"{folder / missing} holds no images; expected is\n{TREE.format(folder=folder)}")
        records = [Record(file, "train", 0, GOOD) for file in normal]
        for kind in kinds:
            for file in images_in(kind):
                if kind.name == GOOD:
                    records.append(Record(file, "test", 0, GOOD))
                    continue
                masks = folder / "ground_truth" / kind.name
                if (mask := find_mask(masks, file.stem)) is None:
                    raise VaexError(
                        f"{file} shows a defect but has no mask {masks / file.stem}_mask.png; add it, or use "
                        "data=folder, which needs no masks."
                    )
                records.append(Record(file, "test", 1, kind.name, mask))
        check_masks(records)
        return records

    def _category_folder(self) -> Path:
        folder = self.root / self.category
        if folder.is_dir():
            return folder
        present = [path.name for path in _folders(self.root) if (path / "train").is_dir()]
        fetch = "" if self.category not in CATEGORIES else " or set data.download=true (5.3 GB, CC BY-NC-SA 4.0)"
        if present:
            close = nearest(self.category, present)
            hint = f"did you mean '{close[0]}'? " if close and self.category not in CATEGORIES else ""
            kind = AbsentDataError if self.category in CATEGORIES else VaexError
            raise kind(
                f"There is no category '{self.category}' in {self.root}: {hint}present are {', '.join(present)}; "
                f"choose one of them{fetch}."
            )
        raise VaexError(
            f"There is no MVTec AD in {self.root}; set paths.data or VAEX_DATA to the folder that holds "
            f"{self.root.name}/{fetch}; expected is\n{TREE.format(folder=folder)}"
        )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
