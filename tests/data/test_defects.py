"""Defects: surfaces drawn by code, whose flaws lie exactly in their masks, the same in every order and process."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy import ndimage

import vaex.data
from vaex.commands import assembly
from vaex.config import conf_dir, register_resolvers
from vaex.data.defects import Defects, draw_surface
from vaex.data.flaws import FLAWS
from vaex.data.module import BatchedDataset
from vaex.data.records import SYNTHETIC
from vaex.data.surfaces import TEXTURES, Surface, light_surface, smooth_noise
from vaex.errors import VaexError
from vaex.types import Batch

SMALL: dict[str, Any] = {"size": 48, "train": 6, "val": 4, "test_good": 3, "test_defects": 2}
KINDS = ("cut", "scratch", "spot", "stain")


def built(**settings: Any) -> Defects:
    data = Defects(**{**SMALL, **settings})
    data.prepare_data()
    data.setup()
    return data


def everything(split: BatchedDataset) -> Batch:
    return split.__getitems__(list(range(len(split))))


def same(left: Batch, right: Batch) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)  # type: ignore[literal-required]


def test_batches_are_what_a_localisation_run_needs() -> None:
    data = built()
    assert data.shape == (3, 48, 48)
    assert data.group_names == ("good", *KINDS, *SYNTHETIC)
    train, val, test = (everything(split) for split in (data.train_set, data.val_set, data.test_set))
    for batch, count in ((train, 6), (val, 8), (test, 11)):
        assert batch["image"].shape == (count, 3, 48, 48)
        assert batch["image"].dtype == torch.float32
        assert batch["mask"].shape == (count, 1, 48, 48)
        assert batch["mask"].dtype == torch.float32
        assert batch["image"].min() >= 0
        assert batch["image"].max() <= 1
        assert set(batch["mask"].unique().tolist()) <= {0.0, 1.0}
        assert batch["index"].tolist() == list(range(count))
        assert all(batch[key].dtype == torch.int64 for key in ("label", "group", "index"))
        assert torch.equal(batch["mask"].flatten(1).any(1).long(), batch["label"])
    assert not train["label"].any()
    assert not train["group"].any()
    assert val["label"].tolist() == [0, 1] * 4
    assert torch.equal(val["group"], torch.where(val["kind"] < 0, 0, val["kind"] + 5))
    assert test["group"].tolist() == [0] * 3 + [1, 1, 2, 2, 3, 3, 4, 4]
    assert test["label"].tolist() == [0] * 3 + [1] * 8


def test_validation_pairs_differ_exactly_in_the_mask() -> None:
    batch = everything(built(val=12).val_set)
    normal, pasted, masks = batch["image"][::2], batch["image"][1::2], batch["mask"][1::2]
    assert torch.equal((normal != pasted).any(1, keepdim=True).float(), masks)
    assert len({mask.numpy().tobytes() for mask in masks}) == 12


def test_training_pairs_differ_exactly_in_the_mask() -> None:
    data = built(pasted=1)
    batch = everything(data.train_set)
    assert batch["label"].tolist() == [0, 1] * 6
    assert torch.equal(batch["clean"][1::2], batch["image"][::2])
    assert torch.equal((batch["image"] != batch["clean"]).any(1, keepdim=True).float(), batch["mask"])
    assert batch["group"][::2].tolist() == [0] * 6
    assert {data.group_names[group] for group in batch["group"][1::2].tolist()} <= set(SYNTHETIC)


def test_validation_without_synthetic_defects_is_normal() -> None:
    batch = everything(built(synthetic=False).val_set)
    assert len(batch["image"]) == 4
    assert not batch["label"].any()
    assert not batch["mask"].any()
    assert torch.equal(batch["image"], everything(built().val_set)["image"][::2])


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_flaw_changes_its_mask_visibly_and_nothing_else(texture: str, kind: str) -> None:
    for number, (size, channels) in enumerate(((32, 1), (64, 3), (128, 3), (128, 1))):
        picture = draw_surface(texture, size, channels, (number,), kind)
        good = draw_surface(texture, size, channels, (number,))
        assert picture.image.shape == (channels, size, size)
        assert picture.image.dtype == np.uint8
        assert np.array_equal(picture.flawless, good.image)
        assert not good.mask.any()
        change = np.abs(picture.image.astype(int) - good.image).max(axis=0)
        assert not change[picture.mask == 0].any()
        inside = change[picture.mask == 1]
        assert inside.size >= 3
        assert inside.mean() > 10
        assert (inside > 0).mean() > 0.6
        assert picture.mask.mean() < 0.12


def test_flaws_have_their_shapes() -> None:
    """Scratches are long and thin, cuts dark, stains large; by moments of the mask, not by the drawing code."""
    length, thin, area, dark = {}, {}, {}, {}
    for kind in KINDS:
        rows = []
        for number in range(12):
            image, mask, flawless = draw_surface("metal", 128, 1, (number,), kind)
            points = np.argwhere(mask) / 128
            major = np.sqrt(np.linalg.eigvalsh(np.cov(points.T) + 1e-9 * np.eye(2)))[::-1]
            depth = ndimage.distance_transform_edt(np.pad(mask, 1)).max() / 128  # half the width
            inside = mask == 1
            rows.append((major[0], depth, mask.mean(), (image[0][inside] / np.maximum(flawless[0][inside], 1)).mean()))
        length[kind], thin[kind], area[kind], dark[kind] = np.median(rows, axis=0)
    assert length["scratch"] > 1.3 * length["cut"]
    assert length["scratch"] > 2 * length["spot"]
    assert thin["scratch"] < thin["cut"] < thin["stain"]
    assert area["stain"] > 2 * max(area[kind] for kind in ("cut", "scratch", "spot"))
    assert dark["cut"] < 0.7 < dark["stain"] < 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_flaws_keep_to_the_object(kind: str) -> None:
    """The washer: a ring whose ground and hole stay as they are."""
    y, x = np.mgrid[:128, :128] / 128 - 0.5 + 1 / 256
    for number in range(8):
        mask = draw_surface("washer", 128, 3, (number,), kind).mask == 1
        radius = np.hypot(x, y)[mask]
        assert (radius > 0.165 - 0.025).all()
        assert (radius < 0.41 + 0.025).all()


def test_the_object_is_aligned_and_textures_are_not() -> None:
    def spread(texture: str) -> float:
        images = np.stack([draw_surface(texture, 64, 1, (n,)).image[0] for n in range(12)]).astype(float)
        return float(images.std(axis=0).mean() / images.std())

    assert spread("washer") < 0.45
    for texture in ("weave", "wood", "brick", "grid", "leather", "metal"):
        assert spread(texture) > 0.6, texture


def test_textures_are_told_apart_by_colour_and_spectrum() -> None:
    """Nearest neighbour among other pictures, by mean colours and coarse power spectrum."""
    points, names = [], []
    for texture in TEXTURES:
        for number in range(4):
            image = draw_surface(texture, 64, 3, (number,)).image / 255
            power = np.abs(np.fft.rfft2(image.mean(0) - image.mean()))[:32, :32].reshape(8, 4, 8, 4).mean(axis=(1, 3))
            points.append(np.concatenate((4 * image.mean(axis=(1, 2)), np.log(power).ravel() / 8)))
            names.append(texture)
    distance = np.linalg.norm(np.array(points)[:, None] - np.array(points), axis=2) + 1e9 * np.eye(len(points))
    assert [names[n] for n in distance.argmin(axis=1)] == names


@pytest.mark.parametrize("texture", TEXTURES)
def test_the_scene_is_the_same_at_every_size(texture: str) -> None:
    large, small = (draw_surface(texture, size, 1, (3,), grain=0).image[0].astype(float) for size in (192, 96))
    shrunk = ndimage.gaussian_filter(large, 2)[1::2, 1::2]
    assert np.corrcoef(shrunk.ravel(), ndimage.gaussian_filter(small, 1).ravel())[0, 1] > 0.85


def test_images_depend_on_seed_split_and_position_alone() -> None:
    data, again, other = built(), built(train=9, batch_size=2, val=3), built(seed=1)
    assert same(everything(data.test_set), everything(again.test_set))
    batch = data.test_set.__getitems__([10, 0, 4])
    whole = everything(data.test_set)
    assert same(batch, {key: value[[10, 0, 4]] for key, value in whole.items()})  # type: ignore[arg-type,index]
    val = everything(data.val_set)
    assert same(again.val_set.__getitems__([3, 5]), {key: value[[3, 5]] for key, value in val.items()})  # type: ignore[arg-type,index]
    assert same(everything(pickle.loads(pickle.dumps(data.val_set))), val)
    pictures = [everything(split)["image"][:3] for split in (data.train_set, data.test_set, other.train_set)]
    pictures.append(val["image"][::2][:3])
    assert len({image.numpy().tobytes() for images in pictures for image in images}) == 12


@pytest.mark.slow
def test_workers_and_batch_size_change_nothing() -> None:
    ours, theirs = built(), built(num_workers=2, eval_batch_size=3)
    for loader in ("val_dataloader", "test_dataloader"):
        left, right = (list(getattr(data, loader)()) for data in (ours, theirs))
        assert len(right) > len(left)
        for key in ("image", "mask", "label", "group", "index"):
            assert torch.equal(*(torch.cat([batch[key] for batch in batches]) for batches in (left, right)))


def test_the_checksum_follows_what_is_drawn() -> None:
    first = built().checksum
    assert first == Defects(**SMALL, batch_size=3).checksum
    changes = (
        {"texture": "wood"},
        {"size": 64},
        {"seed": 1},
        {"train": 7},
        {"kinds": ["cut"]},
        {"synthetic": False},
        {"pasted": 1},
        {"pasted": 1, "recipe": {"kinds": ["flat"]}},
    )
    assert len({first, *(built(**change).checksum for change in changes)}) == 9


def test_kinds_can_be_chosen() -> None:
    data = built(kinds=["spot", "cut"])
    assert data.group_names == ("good", "cut", "spot", *SYNTHETIC)
    assert everything(data.test_set)["group"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    val = everything(data.val_set)
    assert torch.equal(val["group"], torch.where(val["kind"] < 0, 0, val["kind"] + 3))


def test_light_falls_from_the_upper_left() -> None:
    """A hill is brighter where it faces the light; level ground has its own colour."""
    y, x = np.mgrid[:64, :64] / 64 - 0.5
    height, even = 0.1 * np.exp(-(x**2 + y**2) / 0.02), np.ones((64, 64))
    lit = light_surface(Surface(height, np.full((3, 64, 64), 0.5), 0.0, even > 0), even)
    assert np.allclose(lit[:, 0, 0], 0.5, atol=0.01)
    assert lit[0, 26, 26] > 0.55
    assert lit[0, 38, 38] < 0.4


def test_smooth_noise_is_of_unit_deviation_and_size_free() -> None:
    random = np.random.default_rng(0)
    noise = np.stack([smooth_noise(random, 9, 5, 40) for _ in range(200)])
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.1
    small, large = (smooth_noise(np.random.default_rng(1), 4, 7, size) for size in (40, 120))
    assert np.allclose(large[1::3, 1::3], small, atol=1e-4)  # the centre pixel of each 3x3 is at the same place


def test_config_composes_and_builds(tmp_path: Path) -> None:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = ["data=defects", "data.texture=wood", "data.size=64", "data.channels=1", "data.train=5"]
        config = compose("train", chosen)
    data: Any = assembly.build_data(config.data)
    assert isinstance(data, vaex.data.Defects)
    assert data.shape == (1, 64, 64)
    assert data.texture == "wood"
    data.setup()
    assert everything(data.train_set)["image"].shape == (5, 1, 64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texture": "lether"}, "did you mean 'leather'"),
        ({"size": 16}, r"data\.size must be .* 32\.\.1024, got 16"),
        ({"size": 64.0}, r"data\.size"),
        ({"channels": 2}, r"data\.channels must be 3"),
        ({"train": -1}, r"data\.train must be a whole number of at least 0, got -1"),
        ({"test_defects": 1.5}, r"data\.test_defects"),
        ({"seed": -1}, r"data\.seed"),
        ({"kinds": "cut"}, r"data\.kinds must be a list"),
        ({"kinds": ["scratches"]}, "did you mean 'scratch'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        Defects(**settings)


def test_every_flaw_is_tested_here() -> None:
    assert tuple(sorted(FLAWS)) == KINDS
