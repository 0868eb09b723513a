"""Sprites: what a batch holds, that it depends on seed and position alone, and what is refused."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaex.data.render import draw_sprites
from vaex.data.sprites import GRID, Sprites, sprite_grid, sprite_values
from vaex.errors import VaexError
from vaex.types import Batch

SMALL: dict[str, Any] = {
    "grid": {"scale": 2, "orientation": 5, "x": 3, "y": 4},
    "val": 40,
    "test": 60,
    "batch_size": 32,
}


def built(**settings: Any) -> Sprites:
    data = Sprites(**{**SMALL, **settings})
    data.prepare_data()
    data.setup()
    return data


def batches(loader: Any) -> list[Batch]:
    return list(loader)


def test_batch_is_what_the_formula_of_the_grid_draws() -> None:
    """Values written out by hand and enumerated by itertools.product, not by the grid under test."""
    data = built(size=32)
    turns = [0.0, 0.4 * np.pi, 0.8 * np.pi, 1.2 * np.pi, 1.6 * np.pi]
    rows = list(itertools.product([0, 1, 2], [0.5, 1.0], turns, [0.0, 0.5, 1.0], [0.0, 1 / 3, 2 / 3, 1.0]))
    classes = list(itertools.product(range(3), range(2), range(5), range(3), range(4)))
    (batch,) = batches(Sprites._loader(data, data.grid_set.subset(np.array([0, 7, 200, 359])), "test"))
    assert data.shape == (1, 32, 32)
    assert batch["image"].shape == batch["mask"].shape == (4, 1, 32, 32)
    assert batch["image"].dtype == batch["mask"].dtype == torch.float32
    assert batch["factors"].dtype == batch["index"].dtype == torch.int64
    assert batch["index"].tolist() == [0, 7, 200, 359]
    for n, position in enumerate(batch["index"].tolist()):
        assert batch["factors"][n].tolist() == list(classes[position])
        shape, scale, turn, x, y = rows[position]
        expected = draw_sprites(shape, scale, turn, x, y, 32)
        assert np.array_equal(batch["mask"][n].numpy(), expected)
        assert np.array_equal(batch["image"][n].numpy(), expected)


def test_forty_orientations_and_full_sizes_are_dsprites(vaex_data: Path) -> None:
    data = Sprites(grid={"orientation": 40, "x": 32, "y": 32})
    assert len(data.grid_set) == 737_280
    with np.load(vaex_data / "dsprites" / "real_samples.npz") as real:
        images, classes = real["imgs"], real["latents_classes"]
    positions = np.ravel_multi_index(tuple(classes[:, 1:].T), (3, 6, 40, 32, 32))
    assert np.array_equal(data.grid_set.draw(positions), images)


@pytest.mark.slow
def test_all_images_have_as_many_white_pixels_as_the_original_data_set() -> None:
    """Needs no data: the mean of the original as published by GitHub repository nmichlo/disent."""
    every = Sprites(grid={"orientation": 40, "x": 32, "y": 32}).grid_set
    blocks = np.split(np.arange(len(every)), 180)
    white = sum(int(np.count_nonzero(every.draw(block).view(bool))) for block in blocks)
    assert abs(white - 0.042494423521889584 * len(every) * 64 * 64) < 2.5


def test_splits_are_disjoint_complete_and_drawn_by_the_seed() -> None:
    data, same, other = built(), built(), built(seed=1)
    parts = [set(part.positions.tolist()) for part in (data.train_set, data.val_set, data.test_set)]
    assert [len(part) for part in parts] == [260, 40, 60]
    assert set.union(*parts) == set(range(360))
    assert np.array_equal(data.train_set.positions, same.train_set.positions)
    assert not np.array_equal(data.test_set.positions, other.test_set.positions)
    assert len(set(data.test_set.grid.classes(data.test_set.positions)[:, 0])) == 3  # a mixture, not one corner
    limited = built(train=100)
    assert len(limited.train_set) == 100
    assert np.array_equal(limited.val_set.positions, data.val_set.positions)


@pytest.mark.parametrize("settings", [{"color": "random", "noise": 0.2}, {"noise": 0.1}])
def test_images_do_not_depend_on_workers_epoch_or_neighbours(settings: dict[str, Any]) -> None:
    runs = [built(size=16, num_workers=workers, **settings).train_dataloader() for workers in (0, 2)]
    alone, shared = (batches(loader) for loader in runs)
    assert len(alone) == len(shared) == 9
    for one, two in zip(alone, shared, strict=True):
        assert one.keys() == two.keys() == {"image", "mask", "factors", "index"}
        assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))  # type: ignore[arg-type]
    first = {int(index): image for batch in alone for index, image in zip(batch["index"], batch["image"], strict=True)}
    again = batches(runs[0])  # second epoch: another order, the same images
    assert [b["index"].tolist() for b in again] != [b["index"].tolist() for b in alone]
    assert len(first) == 260
    assert all(torch.equal(first[int(i)], x) for b in again for i, x in zip(b["index"], b["image"], strict=True))


def test_random_colors_paint_the_mask_alone() -> None:
    data = built(color="random", size=24)
    assert data.shape == (3, 24, 24)
    colors = []
    for batch in batches(data.test_dataloader()):
        image, mask = batch["image"], batch["mask"]
        assert image.shape[1:] == (3, 24, 24)
        assert mask.shape[1:] == (1, 24, 24)
        color = image.amax((2, 3))
        assert torch.equal(image, mask * color[:, :, None, None])
        colors.append(color)
    seen = torch.cat(colors)
    assert seen.min() >= 0.5
    assert seen.max() <= 1
    assert len({tuple(color) for color in seen.tolist()}) == 60
    assert seen.std(0).min() > 0.1  # uniform on [0.5, 1] has 0.144
    first = data.grid_set.__getitems__([5])["image"]
    assert not torch.equal(first, built(color="random", size=24, seed=1).grid_set.__getitems__([5])["image"])


def test_noise_has_its_standard_deviation_where_nothing_is_clipped() -> None:
    plain, noisy, more = built(), built(noise=0.1), built(noise=0.1, seed=1)
    before = plain.grid_set.__getitems__(list(range(0, 360, 5)))
    after = noisy.grid_set.__getitems__(list(range(0, 360, 5)))
    assert torch.equal(before["mask"], after["mask"])
    change = (after["image"] - before["image"]).double()
    assert after["image"].min() == 0
    assert after["image"].max() == 1
    background = change[before["mask"] == 0]  # max(0, n): half of the second moment of n is left
    assert abs(background.square().mean().sqrt() / (0.1 / 2**0.5) - 1) < 0.01
    assert not torch.equal(after["image"][0], after["image"][1])
    assert not torch.equal(after["image"], more.grid_set.__getitems__(list(range(0, 360, 5)))["image"])


def test_constant_factors_are_left_out() -> None:
    data = built(grid={"shape": 1, "orientation": 1, "x": 1, "scale": 4, "y": 8}, val=4, test=8)
    assert (data.factor_names, data.factor_sizes) == (("scale", "y"), (4, 8))
    (batch,) = batches(data.test_dataloader())
    assert batch["factors"].shape == (8, 2)
    assert torch.equal(batch["factors"], torch.stack((batch["index"] // 8, batch["index"] % 8), 1))
    values = sprite_values(sprite_grid({"scale": 1, "orientation": 1, "x": 1, "y": 1}))
    assert [values[name].tolist() for name in ("scale", "orientation", "x", "y")] == [[0.75], [0.0], [0.5], [0.5]]


def test_every_image_of_the_default_grid_is_unique_so_every_class_can_be_told() -> None:
    data = Sprites()
    assert data.factor_sizes == tuple(GRID.values())
    images = np.packbits(data.grid_set.draw(np.arange(len(data.grid_set))), axis=None).reshape(len(data.grid_set), -1)
    assert len({image.tobytes() for image in images}) == 41_472


def test_a_step_of_any_factor_changes_the_image() -> None:
    for orientation in (5, 40):
        data = Sprites(grid={"orientation": orientation, "x": 4, "y": 4}, val=8, test=8)
        everything = np.arange(0, len(data.grid_set), 7)
        before = data.grid_set.draw(everything)
        for name in data.factor_names:
            after = data.grid_set.draw(data.factor_grid.step(everything, name))
            assert (before != after).any(axis=(1, 2)).all(), name


def test_checksum_follows_the_settings_that_change_the_data() -> None:
    reference = Sprites(**SMALL).checksum
    assert reference == Sprites(**{**SMALL, "batch_size": 8, "num_workers": 1}).checksum
    changes: list[dict[str, Any]] = [
        {"size": 32},
        {"color": "random"},
        {"noise": 0.1},
        {"seed": 1},
        {"val": 41},
        {"train": 5},
        {"grid": {**SMALL["grid"], "x": 4}},
    ]
    seen = {Sprites(**{**SMALL, **change}).checksum for change in changes}
    assert len(seen | {reference}) == len(changes) + 1


def test_a_set_survives_pickling_to_a_worker() -> None:
    data = built(color="random", noise=0.1)
    copy = pickle.loads(pickle.dumps(data.val_set))
    assert torch.equal(copy.__getitems__([3, 1])["image"], data.val_set.__getitems__([3, 1])["image"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {"orientatoin": 3}}, r"data\.grid 'orientatoin': did you mean 'orientation'"),
        ({"grid": {"x": 0}}, r"factor 'x' must be a whole number of at least 1, got 0"),
        ({"grid": {"x": 2.5}}, r"factor 'x' must be a whole number"),
        ({"grid": {"shape": 4}}, r"data\.grid\.shape must be in 1\.\.3"),
        ({"grid": [3, 6]}, r"data\.grid must map factor names"),
        ({"size": 15}, r"16\.\.256, got 15"),
        ({"size": 257}, r"16\.\.256, got 257"),
        ({"color": "randon"}, r"data\.color 'randon': did you mean 'random'"),
        ({"noise": -0.1}, r"data\.noise must be"),
        ({"noise": float("nan")}, r"data\.noise must be"),
        ({"noise": "loud"}, r"data\.noise must be"),
        ({"val": -1}, r"data\.val must be a whole number of at least 0"),
        ({"test": 1.5}, r"data\.test must be a whole number"),
        ({"seed": -1}, r"data\.seed must be"),
        ({"val": 300, "test": 61}, r"ask for 361 images, and training needs at least one more, but the grid has 360"),
        ({"val": 300, "test": 60}, r"training needs at least one more"),
        ({"train": 261}, r"ask for 361 images, but the grid has 360"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        Sprites(**{**SMALL, **settings})
