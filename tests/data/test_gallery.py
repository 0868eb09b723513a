"""Images in tiles: cut after they are split, each as `vaex explain` cuts it, labelled by its part of the mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vaex.commands.sources import ImageFile
from vaex.data import Folder, MVTec
from vaex.data.images import read_pixels
from vaex.data.normal import NormalImages
from vaex.data.records import PastedSet, RecordSet
from vaex.errors import VaexError
from vaex.scores.evidence import Scored
from vaex.scores.tiling import score_tiles

Draw = Callable[..., Path]

HEIGHT, WIDTH = 25, 40
ROWS, COLUMNS = (0, 9), (0, 12, 24)
"""Where tiles of 16 pixels that share 4 begin: the last ends with the image."""


@pytest.fixture
def photos(draw: Draw, tmp_path: Path) -> Path:
    """10 normal images, 2 scratched ones with masks that mark a corner, and 2 pixels of a third tile."""
    for i in range(10):
        draw(f"good/{i}.png", size=(WIDTH, HEIGHT))
    for i in range(2):
        draw(f"bad/scratch/{i}.png", size=(WIDTH, HEIGHT))
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[:5, :6] = 255
        mask[12, 38 : 40 - i] = 255
        draw(f"masks/scratch/{i}.png", mask)
    return tmp_path


def ready(photos: Path, **options: Any) -> Folder:
    given: dict[str, Any] = {"normal_dir": "good", "abnormal_dir": "bad", "mask_dir": "masks", "size": 16, "tile": 16}
    data = Folder(root=str(photos), **{**given, "overlap": 4, "batch_size": 4, **options})
    data.prepare_data()
    data.setup()
    return data


def everything(dataset: Any) -> Any:
    return dataset.__getitems__(list(range(len(dataset))))


def tiles_that_explain_sees(file: Path, shape: tuple[int, int, int], white: float | None = None) -> list[Tensor]:
    seen: list[Tensor] = []

    def score(images: Tensor) -> Scored:
        seen.extend(images)
        return Scored(images[:, :1], images.flatten(1).amax(1))

    pixels = torch.from_numpy(ImageFile(file, shape, white).original())
    score_tiles(pixels, shape[1:], score, 16, 4, batch_size=2)
    return seen


def test_a_tile_has_the_pixels_of_its_place(photos: Path) -> None:
    data = ready(photos)
    batch = everything(data.train_set)
    files = sorted({record.path for record in data.train_set.records})
    assert len(data.train_set) == 6 * len(files)
    for number, file in enumerate(files):
        whole = np.asarray(Image.open(file)).transpose(2, 0, 1) / np.float32(255)
        corners = [(y, x) for y in ROWS for x in COLUMNS]
        for place, (y, x) in enumerate(corners):
            expected = whole[:, y : y + 16, x : x + 16]
            np.testing.assert_array_equal(batch["image"][6 * number + place], expected)


@pytest.mark.parametrize("size", [16, 8, 24])
def test_tiles_are_those_that_explain_scores(photos: Path, draw: Draw, size: int) -> None:
    """Of photographs that EXIF turns, of an image that is smaller than a tile, and of greys of 12 bits."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for i in range(4):
        draw(f"good/t{i}.jpg", size=(WIDTH, HEIGHT), exif=turned)
        draw(f"good/s{i}.png", size=(30, 11))
        wide = np.random.default_rng(i).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)
        draw(f"good/w{i}.png", wide)
    data = ready(photos, size=size, white=4095)
    for dataset in (data.train_set, data.test_set):
        batch, row = everything(dataset), 0
        for file in dict.fromkeys(record.path for record in dataset.records):
            for expected in tiles_that_explain_sees(file, (3, size, size), 4095):
                assert torch.equal(batch["image"][row], expected)
                row += 1
        assert row == len(dataset)


def test_no_tile_of_a_training_image_is_held_out(photos: Path) -> None:
    data, whole = ready(photos, val_fraction=0.3), ready(photos, val_fraction=0.3, tile=None)
    found = {
        split: {record.path for record in getattr(data, f"{split}_set").records} for split in ("train", "val", "test")
    }
    assert not found["train"] & found["val"]
    assert not (found["train"] | found["val"]) & found["test"]
    for split, files in found.items():
        assert files == {record.path for record in whole.records if record.split == split}
    assert data.checksum == whole.checksum
    assert data.remembered == whole.remembered  # by file


@pytest.mark.parametrize("size", [16, 8])
def test_tiles_are_labelled_by_their_masks(photos: Path, size: int) -> None:
    data = ready(photos, size=size)
    batch = everything(data.test_set)
    for row, record in enumerate(data.test_set.records):
        tile = record.tile
        assert tile is not None
        marked = np.zeros((16, 16))
        if record.mask is not None:
            whole = np.asarray(Image.open(record.mask)) / 255
            marked = whole[tile.top : tile.bottom, tile.left : tile.right]
        assert batch["label"][row] == int(marked.any())
        assert data.group_names[batch["group"][row]] == ("scratch" if marked.any() else "good")
        if size == 16:
            np.testing.assert_array_equal(batch["mask"][row, 0], marked)
        else:
            assert bool(batch["mask"][row].any()) == bool(marked.any())  # the finest defect does not vanish
    assert [int(label) for label in batch["label"][-12:]] == [1, 0, 1, 0, 0, 1] * 2


def test_anomalous_images_need_a_mask_that_marks_something(photos: Path, draw: Draw) -> None:
    with pytest.raises(VaexError, match=r"bad/scratch/0.png is anomalous and has no mask, .*data.mask_dir"):
        ready(photos, mask_dir=None)
    empty = draw("masks/scratch/1.png", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
    with pytest.raises(VaexError, match=rf"bad/scratch/1.png is anomalous and its mask {empty} marks nothing"):
        ready(photos)


def test_an_image_is_decoded_once_and_kept_on_disk(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def read(path: Path, *arguments: Any) -> Any:
        decoded.append(path)
        return real(path, *arguments)

    real = read_pixels
    monkeypatch.setattr("vaex.data.gallery.read_pixels", read)
    memory = ready(photos)
    assert sorted(decoded) == sorted(record.path for record in memory.records)
    decoded.clear()
    for options in ({}, {"overlap": 3}, {"tile": 20}, {"tile": None}):
        disk = ready(photos, cache="disk", **options)
        assert len(decoded) == 12
        decoded.clear()
        again = ready(photos, cache="disk", **options)
        assert not decoded
        for key in ("image", "mask", "label"):
            assert torch.equal(everything(again.test_set)[key], everything(disk.test_set)[key])
            if not options:
                assert torch.equal(everything(disk.test_set)[key], everything(memory.test_set)[key])
    assert len(list((photos / ".vaex_cache").iterdir())) == 8


def test_batches_tell_which_image_a_tile_is_of(photos: Path) -> None:
    data = ready(photos, pasted=2)
    val, train, test = data.val_set, data.train_set, data.test_set
    assert isinstance(val, PastedSet)
    assert isinstance(train, PastedSet)
    for split in (test, val.source, train.source):
        assert isinstance(split, RecordSet)
        files = [record.path for record in split.records]
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
        batch = split.__getitems__(order)
        assert batch["image_of"].dtype == torch.int64
        pairs = {(files[row], number) for row, number in zip(order, batch["image_of"].tolist(), strict=True)}
        assert len(pairs) == len(set(files)) == len({number for _, number in pairs})
    for pasted, every in ((val, 2), (train, 3)):
        batch = everything(pasted)
        spoilt = batch["image_of"][batch["label"] == 1].unique()
        assert not torch.isin(batch["image_of"][batch["label"] == 0], spoilt).any()
        assert set(batch["image_of"].bincount().tolist()) == {6}  # tiles of an image, or of one of its copies
        assert len(batch["image_of"].unique()) == every * len(pasted.source) // 6
    whole = ready(photos, tile=None)
    assert all("image_of" not in everything(split) for split in (whole.train_set, whole.val_set, whole.test_set))


def test_whole_images_are_held_out(photos: Path) -> None:
    """All tiles of each, mixed, and none of an image that shows a defect somewhere."""
    rows = [f"good/{i}.png,0,,{'val' if i > 5 else ''}" for i in range(10)]
    rows += ["bad/scratch/0.png,1,masks/scratch/0.png,val", "bad/scratch/1.png,1,masks/scratch/1.png,test"]
    (photos / "images.csv").write_text("\n".join(["path,label,mask,split", *rows]))
    options: dict[str, Any] = {"normal_dir": None, "abnormal_dir": None, "mask_dir": None, "manifest": "images.csv"}
    data = ready(photos, **options)
    names = [record.path.name for record in data.val_set.records]
    assert int(everything(data.val_set)["label"].sum()) == 3
    for most, count in ((None, 4), (2, 2), (9, 4)):
        found = NormalImages(data, most, batch_size=5, split="val", entire=True)
        assert found.image_of is not None
        images = torch.cat(list(found))
        assert len(found) == -(-6 * count // 5)
        assert len(images) == len(found.image_of) == 6 * count
        assert found.image_of.bincount()[found.image_of.unique()].tolist() == [6] * count
        whose = everything(data.val_set)["image"]
        for image, number in zip(images, found.image_of.tolist(), strict=True):
            row = next(row for row, other in enumerate(whose) if torch.equal(image, other))
            assert list(dict.fromkeys(names)).index(names[row]) == number
            assert data.val_set.records[row].path.parent.name == "good"
        assert len(set(found.image_of[:6].tolist())) > 1
    assert NormalImages(data, split="val").image_of is None
    assert len(torch.cat(list(NormalImages(data, 7, split="val")))) == 7


def test_whole_images_are_of_no_image(photos: Path) -> None:
    data = ready(photos, tile=None)
    assert NormalImages(data, split="val", entire=True).image_of is None


def test_training_batches_and_pasted_defects(photos: Path) -> None:
    data = ready(photos, pasted=1)
    assert len(data.train_set) == 2 * 6 * sum(record.split == "train" for record in data.records)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 16, 16)
    assert everything(data.val_set)["label"].tolist() == [0, 1] * (len(data.val_set) // 2)


def test_a_category_of_mvtec_in_tiles(category: Path) -> None:
    data = MVTec(str(category), category="nut", size=8, tile=8, overlap=0)
    data.setup()
    assert len(data.test_set) == 4 * 5
    assert 2 * len(data.train_set) + len(data.val_set) == 2 * 4 * 10  # each of validation is there once more
    batch = everything(data.test_set)
    assert torch.equal(batch["label"], batch["mask"].flatten(1).any(1).long())


def test_tiles_out_of_range(photos: Path) -> None:
    with pytest.raises(VaexError, match=r"data.tile and data.overlap are whole pixels .* got 16 and 9"):
        ready(photos, overlap=9)
    assert ready(photos, tile=None, overlap=9).tile is None  # as explain has it: without effect
