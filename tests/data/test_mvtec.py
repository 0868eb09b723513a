"""MVTec AD: its layout is read, what is wrong with it is told, and the archive is fetched and unpacked."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaex.data import MVTec
from vaex.data.mvtec import ARCHIVE, CATEGORIES, SHA256, URLS
from vaex.data.normal import NormalImages
from vaex.data.records import SYNTHETIC
from vaex.errors import VaexError

Draw = Callable[..., Path]


def ready(root: Path, **options: Any) -> MVTec:
    data = MVTec(str(root), **{"category": "nut", "size": 16, **options})
    data.prepare_data()
    data.setup()
    return data


def test_the_layout_becomes_three_splits(category: Path) -> None:
    data = ready(category, val_fraction=0.2)
    assert data.shape == (3, 16, 16)
    assert data.group_names == ("good", "bent", "cut", *SYNTHETIC)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (8, 4, 5)
    paths = {split: {r.path for r in data.records if r.split == split} for split in ("train", "val", "test")}
    assert not paths["train"] & paths["val"]
    assert {path.parent.parent.name for path in paths["train"] | paths["val"]} == {"train"}
    (batch,) = data.test_dataloader()
    assert batch["label"].tolist() == [1, 1, 1, 0, 0]
    assert [data.group_names[g] for g in batch["group"]] == ["bent", "bent", "cut", "good", "good"]
    for row, name in enumerate(("bent/000", "bent/001", "cut/000", "good/000", "good/001")):
        pixels = np.asarray(Image.open(category / "mvtec/nut/test" / f"{name}.png"), dtype=np.float32) / 255
        np.testing.assert_allclose(batch["image"][row].permute(1, 2, 0), pixels, atol=1e-6)
        file = category / "mvtec/nut/ground_truth" / f"{name}_mask.png"
        expected = np.asarray(Image.open(file)) > 0 if file.exists() else np.zeros((16, 16))
        np.testing.assert_array_equal(batch["mask"][row, 0], expected)
    (val,) = data.val_dataloader()
    assert val["label"].tolist() == [0, 1, 0, 1]
    assert val["mask"].flatten(1).any(1).tolist() == [False, True, False, True]


def test_training_images_may_come_with_pasted_defects(category: Path) -> None:
    data = ready(category, val_fraction=0.2, pasted=2, batch_size=24)
    (batch,) = data.train_dataloader()
    assert sorted(batch["label"].tolist()) == [0] * 8 + [1] * 16
    assert torch.equal(batch["mask"].flatten(1).any(1).long(), batch["label"])
    normal = torch.cat(list(NormalImages(data)))
    assert torch.equal(normal, ready(category, val_fraction=0.2).train_set.__getitems__(list(range(8)))["image"])


def test_grey_images_become_colour_unless_one_channel_is_asked_for(category: Path, draw: Draw) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    draw("mvtec/nut/test/cut/000.png", grey)
    three, one = (ready(category, channels=c).test_set.__getitems__([2])["image"][0] for c in (3, 1))
    assert three.shape == (3, 16, 16)
    assert one.shape == (1, 16, 16)
    torch.testing.assert_close(three, one.expand(3, 16, 16))
    np.testing.assert_allclose(one[0], grey / 255, atol=1e-6)


def test_the_disk_gives_what_the_memory_gives(category: Path) -> None:
    held, mapped = (ready(category, cache=cache) for cache in ("memory", "disk"))
    for split in ("train_set", "val_set", "test_set"):
        first, second = (getattr(data, split) for data in (held, mapped))
        one, other = (dataset.__getitems__(list(range(len(dataset)))) for dataset in (first, second))
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key])
    assert len(list((category / "mvtec/.vaex_cache").glob("*.npy"))) == 2
    ready(category, cache="disk", cache_dir=str(category / "elsewhere"))
    assert len(list((category / "elsewhere").glob("*.npy"))) == 2


def test_the_checksum_is_of_the_files(category: Path, draw: Draw, tmp_path: Path) -> None:
    first = MVTec(str(category), category="nut").checksum
    assert first == ready(category, size=8, seed=5).checksum
    shutil.copytree(category / "mvtec", tmp_path / "copy" / "mvtec")
    assert MVTec(str(tmp_path / "copy"), category="nut").checksum == first
    draw("mvtec/nut/ground_truth/cut/000_mask.png", np.full((16, 16), 255, np.uint8))
    assert MVTec(str(category), category="nut").checksum != first


def test_stray_files_are_ignored(category: Path) -> None:
    for name in ("train/good/notes.txt", "test/cut/Thumbs.db", "test/readme.txt", "train/good/._000.png"):
        (category / "mvtec/nut" / name).write_bytes(b"no image")
    (category / "mvtec/nut/test/.trash").mkdir()
    data = ready(category)
    assert len(data.train_set) == 9
    assert len(data.test_set) == 5


def test_a_category_that_is_not_there_lists_those_that_are(category: Path) -> None:
    (category / "mvtec/.trash/train").mkdir(parents=True)
    with pytest.raises(
        VaexError, match=r"no category 'nutt' .*did you mean 'nut'.* present are nut; choose one of them"
    ):
        ready(category, category="nutt")
    with pytest.raises(VaexError, match=r"present are nut; choose one of them or set data\.download=true"):
        ready(category, category="tile")
    with pytest.raises(VaexError, match=r"(?s)no MVTec AD in .*VAEX_DATA.*tile/\n  train/good"):
        MVTec(str(category / "none"), category="tile").prepare_data()
    with pytest.raises(VaexError, match=r"Unknown data\.category 'nutt'"):
        MVTec(str(category), category="nutt", download=True).prepare_data()
    with pytest.raises(VaexError, match="the name of one folder"):
        MVTec(str(category), category="../nut")


def test_what_is_missing_is_named(category: Path) -> None:
    nut = category / "mvtec/nut"
    (nut / "ground_truth/bent/001_mask.png").unlink()
    with pytest.raises(VaexError, match=r"bent/001\.png shows a defect but has no mask .*bent/001_mask\.png"):
        ready(category)
    shutil.rmtree(nut / "test")
    with pytest.raises(VaexError, match=r"(?s)test holds no images; expected is.*ground_truth/<defect>"):
        ready(category)
    for file in sorted((nut / "train/good").iterdir())[1:]:
        file.unlink()
    (nut / "test/good").mkdir(parents=True)
    shutil.copy(nut / "train/good/000.png", nut / "test/good/000.png")
    with pytest.raises(VaexError, match="has 1 normal image to train on; training and validation need one each"):
        ready(category)
    (nut / "train/good/000.png").unlink()
    with pytest.raises(VaexError, match="train/good holds no images"):
        ready(category)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_broken_image_and_a_mask_that_does_not_fit_are_named(cache: str, category: Path, draw: Draw) -> None:
    draw("mvtec/nut/ground_truth/cut/000_mask.png", np.zeros((8, 16), np.uint8))
    with pytest.raises(VaexError, match=r"000_mask\.png is 16x8 pixels, but its image .*cut/000\.png is 16x16"):
        ready(category, cache=cache)
    whole = (category / "mvtec/nut/train/good/004.png").read_bytes()
    (category / "mvtec/nut/train/good/004.png").write_bytes(whole[:100])
    with pytest.raises(VaexError, match=r"train/good/004\.png cannot be read as an image"):
        ready(category, cache=cache)


def test_an_empty_mask_and_one_of_another_size_are_told(category: Path, draw: Draw, caplog: Any) -> None:
    draw("mvtec/nut/ground_truth/bent/000_mask.png", np.zeros((16, 16), np.uint8))
    for name in ("bent/001", "cut/000"):
        draw(f"mvtec/nut/ground_truth/{name}_mask.png", np.full((8, 8), 255, np.uint8))
    with caplog.at_level(logging.WARNING):
        ready(category)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "bent/000_mask.png is empty although its image is labelled anomalous" in told
    assert "_mask.png and 1 more has another size than its image" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, r"data\.size must be"),
        ({"size": 16.0}, r"data\.size must be"),
        ({"channels": 2}, r"data\.channels must be 3 \(colour\) or 1"),
        ({"val_fraction": 1.0}, r"data\.val_fraction"),
        ({"val_fraction": 0}, r"data\.val_fraction"),
        ({"cache": "disc"}, r"Unknown data\.cache 'disc': did you mean 'disk'"),
        ({"urls": ["http://x/y.zip"]}, r"data\.urls needs data\.sha256"),
        ({"augmentation": {"split": "trian"}}, r"Unknown augmentation\.split 'trian': did you mean 'train'"),
    ],
)
def test_settings_out_of_range_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        MVTec(**options)


def test_the_known_archive_is_well_formed() -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 15
    assert len(bytes.fromhex(SHA256)) == 32
    assert all(url.startswith("https://") and url.endswith(ARCHIVE) for url in URLS)


def packed(folder: Path) -> bytes:
    """The folder ``nut`` as an archive of the category ``tile``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        archive.add(folder / "mvtec/nut", "tile")
    return buffer.getvalue()


def test_a_missing_category_is_fetched_by_the_second_address(category: Path, mirror: Any, caplog: Any) -> None:
    mirror.content = packed(category)
    mirror.half = len(mirror.content) // 2
    options: dict[str, Any] = {
        "category": "tile",
        "size": 16,
        "download": True,
        "urls": [mirror.url("/none", lambda request: request.send(b"", 404)), mirror.url("/a.tar.xz", mirror.ranged)],
        "sha256": hashlib.sha256(mirror.content).hexdigest(),
    }
    part = category / "mvtec" / f"{ARCHIVE}.part"
    part.write_bytes(mirror.content[: mirror.half])  # what an earlier try left
    with caplog.at_level(logging.WARNING):
        data = MVTec(str(category), **options)
        data.prepare_data()
    assert mirror.asked == [("/none", f"bytes={mirror.half}-"), ("/a.tar.xz", f"bytes={mirror.half}-")]
    assert sum("CC BY-NC-SA 4.0" in record.getMessage() for record in caplog.records) == 1
    data.setup()
    assert len(data.test_set) == 5
    asked = len(mirror.asked)
    MVTec(str(category), **options).prepare_data()
    assert len(mirror.asked) == asked


def test_a_wrong_digest_leaves_no_category(category: Path, mirror: Any) -> None:
    url = mirror.url("/a", mirror.plain)
    data = MVTec(str(category), category="tile", download=True, urls=[url], sha256="0" * 64)
    with pytest.raises(VaexError, match=f"Could not download {ARCHIVE}.*its sha256 is .*fetch it by hand"):
        data.prepare_data()
    assert sorted(path.name for path in (category / "mvtec").iterdir()) == ["nut"]
