"""dSprites: the same images from a file, a download and by drawing, on disk, in memory and on a device."""

from __future__ import annotations

import itertools
import logging
import pickle
import shutil
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from vaex.data import dsprites
from vaex.data.cache import MappedPixels
from vaex.data.download import file_digest
from vaex.data.dsprites import FILES, DSprites
from vaex.data.loading import ResumableLoader
from vaex.data.render import draw_sprites
from vaex.errors import VaexError

if TYPE_CHECKING:
    from tests.data.conftest import Mirror

SIZES = {"shape": 3, "scale": 2, "orientation": 5, "x": 3, "y": 4}
CLASSES = np.array(list(itertools.product(range(3), range(2), range(5), range(3), range(4))))
REFUSED = "must not be made again"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make dSprites a data set of 360 images."""
    monkeypatch.setattr(dsprites, "GRID", SIZES)


def content() -> dict[str, Any]:
    """Return what a small original file holds: noise instead of sprites, so that it is told from drawn images."""
    images = np.random.default_rng(0).integers(0, 2, (360, 64, 64), dtype=np.uint8)
    classes = np.insert(CLASSES, 0, 0, axis=1)  # colour
    return {"metadata": np.array({"title": "dSprites"}), "imgs": images, "latents_classes": classes}


def store(folder: Path, name: str = FILES[0], **changes: Any) -> Path:
    path = folder / "dsprites" / name
    path.parent.mkdir(exist_ok=True)
    arrays = {key: value for key, value in {**content(), **changes}.items() if value is not None}
    np.savez_compressed(path, **arrays)
    return path


def ready(root: Path, **options: Any) -> DSprites:
    data = DSprites(str(root), **{"val": 40, "test": 60, "batch_size": 32, **options})
    data.prepare_data()
    data.setup()
    return data


def images_of(data: DSprites) -> np.ndarray[Any, Any]:
    return data.grid_set.__getitems__(list(range(len(data.grid_set))))["image"].numpy()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cache", ["disk", "memory", "device"])
def test_a_file_under_both_names(small: None, tmp_path: Path, name: str, cache: str) -> None:
    store(tmp_path, name)
    data = ready(tmp_path, cache=cache)
    assert data.shape == (1, 64, 64)
    assert data.factor_names == ("shape", "scale", "orientation", "x", "y")
    assert data.factor_sizes == (3, 2, 5, 3, 4)
    np.testing.assert_array_equal(images_of(data)[:, 0], content()["imgs"])
    batch = data.grid_set.__getitems__([7, 359, 0])
    assert batch["image"].dtype == batch["mask"].dtype == torch.float32
    assert batch["image"].shape == batch["mask"].shape == (3, 1, 64, 64)
    assert torch.equal(batch["image"], batch["mask"])
    assert batch["factors"].tolist() == CLASSES[[7, 359, 0]].tolist()
    assert batch["index"].tolist() == [7, 359, 0]
    np.testing.assert_array_equal(data.grid_set.draw(np.array([5, 1])), content()["imgs"][[5, 1]])
    assert (tmp_path / "dsprites" / ".vaex_cache").is_dir() == (cache != "memory")


def test_without_a_file_they_are_drawn(small: None, tmp_path: Path) -> None:
    data = ready(tmp_path)
    turns = [0.0, 0.4 * np.pi, 0.8 * np.pi, 1.2 * np.pi, 1.6 * np.pi]
    rows = np.array(list(itertools.product(range(3), [0.5, 1.0], turns, [0, 0.5, 1], [0, 1 / 3, 2 / 3, 1])))
    expected = draw_sprites(rows[:, 0].astype(int), *rows[:, 1:].T)
    np.testing.assert_array_equal(images_of(data)[:, 0], expected)


def test_the_source_chooses_between_file_and_drawing(small: None, tmp_path: Path) -> None:
    store(tmp_path)
    file, drawn, default = (images_of(ready(tmp_path, source=source)) for source in ("file", "render", None))
    np.testing.assert_array_equal(file, default)
    assert not np.array_equal(file, drawn)


def test_the_splits_are_disjoint_and_whole(small: None, tmp_path: Path) -> None:
    data = ready(tmp_path)
    parts = [
        {int(i) for batch in loader for i in batch["index"]}
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert [len(part) for part in parts] == [260, 40, 60]
    assert set.union(*parts) == set(range(360))


def refuse(*arguments: Any) -> None:
    raise AssertionError(REFUSED)


def test_the_next_run_finds_the_bits_and_a_changed_file_is_packed_anew(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = store(tmp_path), str(tmp_path / "cache")
    ready(tmp_path, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(dsprites, "_pack_file", refuse)
        data = ready(tmp_path, cache_dir=cache)
        assert isinstance(data.grid_set.bits, MappedPixels)
        assert data.grid_set.bits.shape == (360, 512)
        np.testing.assert_array_equal(images_of(data)[:, 0], content()["imgs"])
        time.sleep(0.01)
        store(tmp_path, imgs=1 - content()["imgs"])
        with pytest.raises(AssertionError, match=REFUSED):
            ready(tmp_path, cache_dir=cache)
    np.testing.assert_array_equal(images_of(ready(tmp_path, cache_dir=cache))[:, 0], 1 - content()["imgs"])
    assert path.is_file()


def test_a_failed_packing_leaves_nothing_behind(small: None, tmp_path: Path) -> None:
    images = content()["imgs"]
    images[359, 63, 63] = 2
    store(tmp_path, imgs=images)
    with pytest.raises(VaexError, match=r"'imgs' must be 0 and 1, got 2"):
        ready(tmp_path, cache_dir=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cache_is_told(small: None, tmp_path: Path) -> None:
    ready(tmp_path)
    (kept,) = (tmp_path / "dsprites" / ".vaex_cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(VaexError, match=r"cannot be read .*; delete it"):
        images_of(ready(tmp_path))


def test_a_folder_that_nobody_may_write_is_left_alone(
    small: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = store(tmp_path)
    path.parent.chmod(0o555)
    try:
        with caplog.at_level(logging.WARNING):
            data = ready(tmp_path)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    finally:
        path.parent.chmod(0o755)
    assert isinstance(data.grid_set.bits, np.ndarray)
    assert sum("kept in memory" in record.message for record in caplog.records) == 1


def test_the_checksum_is_that_of_images_and_splits(small: None, tmp_path: Path) -> None:
    drawn = ready(tmp_path, cache="memory")
    store(tmp_path, imgs=images_of(drawn)[:, 0].astype(np.uint8))
    assert ready(tmp_path).checksum == drawn.checksum
    assert ready(tmp_path, batch_size=3, cache="device").checksum == drawn.checksum
    others = [ready(tmp_path, val=41), ready(tmp_path, seed=1)]
    store(tmp_path)
    assert len({data.checksum for data in [drawn, *others, ready(tmp_path)]}) == 4


def test_workers_read_the_same_file_in_the_same_order(small: None, tmp_path: Path) -> None:
    store(tmp_path)
    alone, helped = ready(tmp_path), ready(tmp_path, num_workers=2)
    sent = pickle.dumps(helped.train_set)
    assert len(sent) < 30_000
    for one, other in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert one["index"].tolist() == other["index"].tolist()
        assert torch.equal(one["image"], other["image"])
        np.testing.assert_array_equal(other["image"][:, 0], content()["imgs"][other["index"]])


def test_processes_share_an_epoch(small: None, tmp_path: Path) -> None:
    data, seen = ready(tmp_path), []
    for rank in range(2):
        loader = ResumableLoader(data.train_set, batch_size=32, shuffle=True, rank=rank, world_size=2)
        seen.append([int(i) for batch in loader for i in batch["index"]])
    assert [len(part) for part in seen] == [130, 130]
    assert len(set(seen[0] + seen[1])) == 260


def test_an_epoch_is_resumed_behind_its_batches(small: None, tmp_path: Path) -> None:
    whole = [batch["index"].tolist() for batch in ready(tmp_path).train_dataloader()]
    data = ready(tmp_path)
    loader: Any = data.train_dataloader()
    seen = [batch["index"].tolist() for batch, _ in zip(loader, range(3), strict=False)]
    again = ready(tmp_path)
    later: Any = again.train_dataloader()
    later.load_state_dict({"epoch": 0, "handed_out": 3})
    assert seen + [batch["index"].tolist() for batch in later] == whole


def test_a_download_is_checked_resumed_and_packed(small: None, tmp_path: Path, mirror: Mirror) -> None:
    original = store(tmp_path / "..", f"{tmp_path.name}.npz")
    mirror.content = original.read_bytes()
    mirror.half = len(mirror.content) // 2
    sha256 = file_digest(original)
    cut = mirror.url("/cut", lambda request: (mirror.ranged if request.start else mirror.promise)(request))
    gone = mirror.url("/gone", lambda request: request.send(b"", 404))
    options = {"source": "download", "urls": [gone, cut], "sha256": sha256}
    data = ready(tmp_path, **options)
    np.testing.assert_array_equal(images_of(data)[:, 0], content()["imgs"])
    assert mirror.asked == [("/gone", None), ("/cut", None), ("/cut", f"bytes={mirror.half}-")]
    ready(tmp_path, **options)
    assert len(mirror.asked) == 3
    shutil.rmtree(tmp_path / "dsprites")
    with pytest.raises(VaexError, match=r"its sha256 is .*use data\.source=render, which needs no download"):
        ready(tmp_path, **{**options, "sha256": "0" * 64})


def test_a_single_address_needs_no_list(tmp_path: Path) -> None:
    assert DSprites(str(tmp_path), urls="http://a/b.npz", sha256="0" * 64).urls == ("http://a/b.npz",)


def test_offline_is_told(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Mirror) -> None:
    monkeypatch.setattr(dsprites, "URLS", ("http://nowhere.invalid/a.npz",))
    with pytest.raises(VaexError, match=r"Could not download dsprites_nd.*data\.source=render"):
        ready(tmp_path, source="download")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": None}, r"no array 'imgs', but metadata, latents_classes"),
        ({"imgs": np.zeros((359, 64, 64), np.uint8)}, r"'imgs' must be uint8 of shape \(360, 64, 64\), got .*359"),
        ({"imgs": np.zeros((360, 64, 64), np.float32)}, r"'imgs' must be uint8 .* got float32"),
        ({"latents_classes": None}, r"no array 'latents_classes'"),
        ({"latents_classes": np.insert(CLASSES, 0, 0, axis=1)[::-1]}, r"'latents_classes' must count color, shape"),
        ({"imgs": np.array({"a": 1})}, r"'imgs' in .* pickled"),
    ],
)
def test_a_wrong_file_is_told(small: None, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    store(tmp_path, **changes)
    with pytest.raises(VaexError, match=message):
        ready(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.9999])
def test_a_truncated_file_is_told_in_one_sentence(
    small: None, tmp_path: Path, keep: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = store(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(VaexError, match=r"truncated, damaged or of another kind"):
        ready(tmp_path)
    assert not caplog.records  # nothing else is said of it
    path.write_bytes(whole)
    ready(tmp_path)
    assert [record.message for record in caplog.records] == [
        f"{path} holds dSprites, but is not the published file; it is read as it is."
    ]


def test_a_flipped_bit_in_the_images_is_told(small: None, tmp_path: Path) -> None:
    path = store(tmp_path)
    broken = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        broken[archive.getinfo("imgs.npy").header_offset + 60_000] ^= 4
    path.write_bytes(broken)
    with pytest.raises(VaexError, match=r"truncated, damaged or of another kind|must be 0 and 1"):
        ready(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "fiel"}, r"data\.source 'fiel': did you mean 'file'"),
        ({"source": "file"}, r"There is no dsprites_ndarray.* in .*data\.source=render, which needs no file"),
        ({"cache": "disc"}, r"data\.cache 'disc': did you mean 'disk'"),
        ({"urls": ["http://a"]}, r"data\.urls needs data\.sha256"),
        ({"cache": "device", "num_workers": 1}, r"data\.cache=device needs data\.num_workers=0"),
        ({"val": 300, "test": 60}, r"training needs at least one more, but the grid has 360"),
    ],
)
def test_wrong_settings_are_refused(small: None, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        ready(tmp_path, **options)


@pytest.mark.slow
def test_all_of_dsprites_is_drawn_as_in_the_file(vaex_data: Path, tmp_path: Path) -> None:
    """The oracle reads the file by numpy alone."""
    path = next(path for name in FILES if (path := vaex_data / "dsprites" / name).is_file())
    drawn = DSprites(str(tmp_path), source="render")
    packed = DSprites(str(vaex_data), source="file", cache_dir=str(tmp_path / "cache"))
    for data in (drawn, packed):
        data.prepare_data()
        data.setup()
        assert len(data.grid_set) == 737_280
        assert data.factor_sizes == (3, 6, 40, 32, 32)
    assert drawn.checksum == packed.checksum
    with np.load(path) as file:
        classes = file["latents_classes"]
        expected = file["imgs"]  # 3.0 GB
    for start in range(0, len(expected), 1 << 15):
        positions = np.arange(start, min(start + (1 << 15), len(expected)))
        assert np.array_equal(drawn.grid_set.draw(positions), expected[start : start + (1 << 15)]), start
    found = packed.grid_set.__getitems__(list(range(0, 737_280, 997)))
    np.testing.assert_array_equal(found["factors"], classes[::997, 1:])
    np.testing.assert_array_equal(found["image"][:, 0], expected[::997])
