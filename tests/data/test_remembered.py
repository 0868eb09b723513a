"""What a training remembers of its images, and what is found of them later: counted here by comparing the files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaex.data import Folder
from vaex.data.remembered import DIGITS, change_since

Draw = Callable[..., Path]


@pytest.fixture
def photos(draw: Draw, tmp_path: Path) -> Path:
    for i in range(40):
        draw(f"good/{i:02d}.png")
    draw("bad/1.png")
    return tmp_path


def folder(photos: Path, **options: Any) -> Folder:
    return Folder(**{"root": str(photos), "normal_dir": "good", "abnormal_dir": "bad", "size": 16, **options})


def contents(data: Folder) -> dict[str, list[bytes]]:
    """Return the bytes of the images of each split."""
    return {
        split: [r.path.read_bytes() for r in data.records if r.split == split] for split in ("train", "val", "test")
    }


def test_each_split_is_known_by_the_content_of_its_images(photos: Path) -> None:
    data = folder(photos)
    for split, files in contents(data).items():
        expected = sorted(hashlib.sha256(file).hexdigest()[:DIGITS] for file in files)
        assert data.remembered[split] == "".join(expected)


def test_an_image_that_came_moves_others_between_the_splits(photos: Path, draw: Draw) -> None:
    before = folder(photos)
    then, seen = before.remembered, set(contents(before)["train"])
    draw("good/05b.png")
    after = folder(photos)
    found, now = change_since(then, after.remembered), contents(after)
    assert found is not None
    assert (found.came, found.went, found.resplit) == (1, 0, True)
    assert found.held_out == sum(image in seen for image in now["val"]) > 0
    assert found.tested == sum(image in seen for image in now["test"]) > 0
    assert (found.all_held_out, found.all_tested) == (len(now["val"]), len(now["test"]))
    assert "1 image has come and 0 gone" in found.told()
    assert f"{found.tested} of the {len(now['test'])} of the test were trained on" in found.told()


def test_images_that_went_are_counted(photos: Path) -> None:
    then = folder(photos).remembered
    for name in ("00.png", "01.png"):
        (photos / "good" / name).unlink()
    found = change_since(then, folder(photos).remembered)
    assert found is not None
    assert (found.came, found.went) == (0, 2)


def test_moved_and_renamed_files_are_the_same_images(photos: Path) -> None:
    then = folder(photos).remembered
    shutil.move(photos / "good", photos / "elsewhere")
    for file in (photos / "elsewhere").iterdir():
        file.rename(file.with_name(f"part_{file.name}"))
    moved = folder(photos, root=None, normal_dir=str(photos / "elsewhere"), abnormal_dir=str(photos / "bad"))
    assert change_since(then, moved.remembered) is None


def test_the_same_images_in_another_order_or_with_another_seed_are_split_otherwise(photos: Path) -> None:
    then = folder(photos).remembered
    for found in (folder(photos, seed=1), folder(photos, val_fraction=0.5)):
        change = change_since(then, found.remembered)
        assert change is not None
        assert (change.came, change.went, change.resplit) == (0, 0, True)
        assert "the images are those of the training, but split otherwise" in change.told()


def test_a_test_that_grew_leaves_training_and_validation_as_they_were(photos: Path, draw: Draw) -> None:
    then = folder(photos).remembered
    draw("bad/2.png")
    found = change_since(then, folder(photos).remembered)
    assert found is not None
    assert (found.came, found.held_out, found.tested, found.resplit) == (1, 0, 0, False)


@pytest.mark.parametrize("then", [None, {}, "train", {"train": "", "val": 3, "test": ""}, {"train": "ab"}])
def test_where_nothing_is_remembered_nothing_has_changed(then: Any) -> None:
    assert change_since(then, {"train": "0" * DIGITS, "val": "", "test": ""}) is None
