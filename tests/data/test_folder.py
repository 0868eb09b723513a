"""Images of one's own: folders in any nesting, splits by share, masks or none, and what is missing is told."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaex.data import Folder
from vaex.data.records import SYNTHETIC
from vaex.errors import VaexError

Draw = Callable[..., Path]

MASK = np.zeros((16, 16), dtype=np.uint8)
MASK[3:9, 4:12] = 255


@pytest.fixture
def photos(draw: Draw, tmp_path: Path) -> Path:
    """20 normal images in two folders and three formats, 2 scratched and 1 dented one with masks, 1 of no kind."""
    for i in range(20):
        draw(f"good/{'a' if i % 2 else 'b'}/{i:02d}.{('png', 'jpg', 'bmp', 'tif')[i % 4]}")
    for name in ("bad/scratch/1", "bad/scratch/2", "bad/dent/1", "bad/3"):
        draw(f"{name}.png")
        draw(f"{name.replace('bad', 'masks')}.png", MASK)
    return tmp_path


def ready(photos: Path, **options: Any) -> Folder:
    options = {"root": str(photos), "normal_dir": "good", "abnormal_dir": "bad", "size": 16, **options}
    data = Folder(**options)
    data.prepare_data()
    data.setup()
    return data


def names(data: Folder, split: str) -> set[str]:
    return {r.path.relative_to(data.root).as_posix() for r in data.records if r.split == split and not r.label}


def test_normal_images_are_split_and_abnormal_ones_tested(photos: Path) -> None:
    data = ready(photos, mask_dir="masks", test_fraction=0.25, val_fraction=0.2)
    assert data.group_names == ("good", "anomalous", "dent", "scratch", *SYNTHETIC)
    assert [len(names(data, split)) for split in ("train", "val", "test")] == [12, 3, 5]
    assert len(names(data, "train") | names(data, "val") | names(data, "test")) == 20
    batch = data.test_set.__getitems__(list(range(len(data.test_set))))
    found = {r.path.relative_to(photos / "bad").as_posix(): i for i, r in enumerate(data.test_set.records) if r.label}
    kinds = {name: data.group_names[batch["group"][row]] for name, row in found.items()}
    assert kinds == {"3.png": "anomalous", "dent/1.png": "dent", "scratch/1.png": "scratch", "scratch/2.png": "scratch"}
    assert batch["label"].sum() == 4
    for row, label in enumerate(batch["label"].tolist()):
        np.testing.assert_array_equal(batch["mask"][row, 0], MASK / 255 * label)


def test_the_seed_decides_the_splits(photos: Path) -> None:
    first, again, other = (ready(photos, seed=seed) for seed in (0, 0, 1))
    for split in ("train", "val", "test"):
        assert names(first, split) == names(again, split) != names(other, split)


def test_without_masks_there_are_none_and_it_is_told(photos: Path, caplog: Any) -> None:
    data = ready(photos)
    assert "4 of the 4 anomalous test images have no mask: only whole images are judged" in caplog.text
    assert "mask" not in data.test_set.__getitems__([0])
    assert "mask" in data.train_set.__getitems__([0])
    assert data.val_set.__getitems__([1])["mask"].any()


def test_normal_images_alone_will_do(photos: Path) -> None:
    data = ready(photos, abnormal_dir=None)
    assert data.group_names == ("good", *SYNTHETIC)
    assert not data.test_set.labels.any()
    assert data.test_set.__getitems__([0])["mask"].shape == (1, 1, 16, 16)
    assert len(ready(photos, abnormal_dir=None, test_fraction=0).test_set) == 0


def test_a_folder_of_normal_test_images_takes_the_place_of_the_share(photos: Path) -> None:
    shutil.move(photos / "good/b", photos / "later")
    data = ready(photos, normal_test_dir="later")
    assert {name.split("/")[0] for name in names(data, "test")} == {"later"}
    assert len(names(data, "test")) == len(names(data, "train") | names(data, "val")) == 10


def test_folders_inside_each_other_are_told_apart(photos: Path) -> None:
    for name in ("bad", "masks"):
        shutil.move(photos / name, photos / "good" / name)
    data = ready(photos, abnormal_dir="good/bad", mask_dir="good/masks")
    assert sum(len(names(data, split)) for split in ("train", "val", "test")) == 20
    assert int(data.test_set.labels.sum()) == 4


@pytest.mark.parametrize("inner", ["{photos}/good/bad", "good/../good/bad", "link/bad"])
def test_folders_inside_each_other_are_told_apart_however_they_are_written(
    photos: Path, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the defective images are learnt as normal ones."""
    monkeypatch.chdir(photos)
    shutil.move(photos / "bad", photos / "good/bad")
    (photos / "link").symlink_to(photos / "good", target_is_directory=True)
    data = ready(photos, root=None, abnormal_dir=inner.format(photos=photos))
    normal = [r.path.resolve() for r in data.records if not r.label]
    assert len(normal) == 20
    assert not [path for path in normal if "bad" in path.parts]
    assert int(data.test_set.labels.sum()) == 4


def test_a_link_to_a_defective_image_lies_where_it_lies(photos: Path) -> None:
    shutil.move(photos / "bad", photos / "store")
    (photos / "good/bad").mkdir()
    for i, file in enumerate(sorted((photos / "store").rglob("*.png"))):
        (photos / f"good/bad/{i}.png").symlink_to(file)
    data = ready(photos, abnormal_dir="good/bad")
    assert (len(data.test_set.labels), int(data.test_set.labels.sum())) == (8, 4)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"abnormal_dir": "good"}, "normal_dir and data.abnormal_dir"),
        ({"abnormal_dir": "bad/../good/"}, "normal_dir and data.abnormal_dir"),
        ({"normal_test_dir": "good"}, "normal_dir and data.normal_test_dir"),
        ({"normal_test_dir": "link"}, "normal_dir and data.normal_test_dir"),
        ({"normal_test_dir": "bad"}, "normal_test_dir and data.abnormal_dir"),
        ({"mask_dir": "good"}, "normal_dir and data.mask_dir"),
    ],
)
def test_the_same_folder_twice_is_refused(photos: Path, options: dict[str, str], names: str) -> None:
    (photos / "link").symlink_to(photos / "good", target_is_directory=True)
    with pytest.raises(VaexError, match=rf"data\.{names} are the same folder, .*; name a folder of its own for each"):
        ready(photos, **options)


def test_a_file_that_would_be_listed_twice_is_refused(photos: Path) -> None:
    (photos / "good/again.png").symlink_to(photos / "bad/3.png")
    with pytest.raises(VaexError, match=r"bad/3\.png and .*good/again\.png are the same image; remove one"):
        ready(photos)


def test_masks_beside_their_images_are_no_images(photos: Path) -> None:
    for mask in sorted((photos / "masks").rglob("*.png")):
        name = mask.relative_to(photos / "masks")
        shutil.move(mask, photos / "bad" / name.with_name(f"{name.stem}_mask.png"))
    for mask_dir in ("bad", "good/../bad", str(photos / "bad")):
        data = ready(photos, mask_dir=mask_dir)
        found = [r for r in data.test_set.records if r.label]
        assert sorted(r.path.stem for r in found) == ["1", "1", "2", "3"]
        assert [r.mask and r.mask.name for r in found] == [f"{r.path.stem}_mask.png" for r in found]
        masks = data.test_set.__getitems__(list(range(len(data.test_set))))["mask"]
        assert int(masks.sum()) == 4 * int((MASK > 0).sum())
    (photos / "bad/3_mask.png").unlink()
    with pytest.raises(VaexError, match=r"bad/3\.png has no mask .*bad/3_mask\.png; add it, or leave"):
        ready(photos, mask_dir="bad")


def test_a_tilde_is_the_own_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos))
    cache = {"cache": "disk", "cache_dir": "~/cached"}
    data = ready(photos, root=None, normal_dir="~/good", abnormal_dir="~/bad", mask_dir="~/masks", **cache)
    assert (len(data.records), int(data.test_set.labels.sum())) == (24, 4)
    assert list((photos / "cached").iterdir())
    assert len(ready(photos, root="~").records) == 24
    (photos / "list.csv").write_text("path\ngood/a/01.jpg\ngood/a/03.tif\n")
    assert len(ready(photos, root=None, normal_dir=None, abnormal_dir=None, manifest="~/list.csv").records) == 2


def test_links_to_folders_are_not_followed(photos: Path) -> None:
    (photos / "good/c").symlink_to(photos / "bad", target_is_directory=True)
    assert len(ready(photos, abnormal_dir=None).records) == 20


def test_absolute_paths_and_a_validation_without_defects(photos: Path) -> None:
    data = ready(photos, root=None, normal_dir=str(photos / "good"), abnormal_dir=str(photos / "bad"), synthetic=False)
    assert len(data.val_set) == len([r for r in data.records if r.split == "val"])


def test_what_is_missing_is_told_with_the_expected_tree(photos: Path) -> None:
    with pytest.raises(VaexError, match=r"(?s)needs data\.normal_dir, or data\.manifest; expected is.*<abnormal_dir>"):
        ready(photos, normal_dir=None)
    with pytest.raises(VaexError, match=r"(?s)data\.abnormal_dir is .*none, which is no folder; expected is"):
        ready(photos, abnormal_dir="none")
    (photos / "empty").mkdir()
    (photos / "empty/notes.txt").write_text("no image")
    with pytest.raises(VaexError, match=r"(?s)data\.normal_dir, .*empty, holds no images; expected is"):
        ready(photos, normal_dir="empty")
    with pytest.raises(VaexError, match=r"data\.mask_dir holds the masks of data\.abnormal_dir"):
        ready(photos, abnormal_dir=None, mask_dir="masks")
    (photos / "masks/dent/1.png").unlink()
    with pytest.raises(VaexError, match=r"bad/dent/1\.png has no mask .*masks/dent/1\.png or 1_mask\.png"):
        ready(photos, mask_dir="masks")
    with pytest.raises(VaexError, match=r"data\.test_fraction"):
        Folder(test_fraction=1.0)


def test_a_manifest_or_folders_but_not_both(photos: Path) -> None:
    (photos / "list.csv").write_text("path\ngood/a/01.jpg\n")
    with pytest.raises(VaexError, match=r"data\.manifest takes the place of data\.normal_dir"):
        ready(photos, manifest="list.csv")


def test_images_do_not_share_a_mask(photos: Path, draw: Draw) -> None:
    draw("bad/scratch/1.JPG.tmp.png").rename(photos / "bad/scratch/1.JPG")
    with pytest.raises(VaexError, match=r"1\.JPG and .*1\.png share the mask .*1\.png; rename one of the images"):
        ready(photos, mask_dir="masks")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("beside", [False, True])
def test_letters_with_accents_match_however_they_are_composed(
    beside: bool, form: str, photos: Path, draw: Draw
) -> None:
    name = {kind: unicodedata.normalize(kind, "é") for kind in ("NFC", "NFD")}
    other = name["NFD" if form == "NFC" else "NFC"]
    assert name[form] != other
    draw(f"accents/{name[form]}.png")
    masks = "accents" if beside else "accent_masks"
    draw(f"{masks}/{other}_mask.png", MASK)
    data = ready(photos, abnormal_dir="accents", mask_dir=masks)
    (record,) = [record for record in data.records if record.label]
    assert record.path.stem == name[form]
    assert record.mask == photos / masks / f"{other}_mask.png"


def test_a_disk_cache_lies_beside_the_data(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options: dict[str, Any] = {"normal_dir": str(photos / "good"), "size": 16, "cache": "disk"}
    Folder(**options).setup()
    assert list((photos / ".vaex_cache").glob("*.npy"))
    assert not list((tmp_path / "here").iterdir())
    Folder(**options, cache_dir=str(tmp_path / "named")).setup()
    assert list((tmp_path / "named").glob("*.npy"))


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_link_that_leads_nowhere_is_told(cache: str, photos: Path) -> None:
    for target in ("gone.png", "link.png"):  # nowhere, and in a circle
        link = photos / "good" / "link.png"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(VaexError, match=r"link\.png cannot be read"):
            ready(photos, cache=cache)
        with pytest.raises(VaexError, match=r"link\.png cannot be read"):
            Folder(root=str(photos), normal_dir="good", size=16).checksum  # noqa: B018 - it reads the files
