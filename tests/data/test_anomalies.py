"""Pasted defects: what changed is the mask, by the seed alone, in all kinds and outlines."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from vaex.data.anomalies import KINDS, SHAPES, Pasted, paste_defects
from vaex.data.outlines import OUTLINES
from vaex.errors import VaexError


def rough(count: int, size: int = 64, channels: int = 3) -> Tensor:
    """Smooth random textures, quantised like files."""
    noise = np.random.default_rng(0).standard_normal((count, channels, size, size))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 1.5, 1.5), mode="wrap")
    return torch.from_numpy(np.rint(255 * np.clip(0.5 + 0.8 * smooth, 0, 1)) / 255).float()


def disks(count: int, size: int = 128) -> Tensor:
    """A dark rough disk in the upper left quarter of a white ground."""
    y, x = np.mgrid[:size, :size] / size
    inside = torch.from_numpy((x - 0.3) ** 2 + (y - 0.3) ** 2 < 0.03)
    return torch.where(inside, 0.5 * rough(count, size), torch.ones(()))


def differs(before: Tensor, after: Tensor) -> Tensor:
    return (before != after).any(dim=1, keepdim=True)


def same(left: Pasted, right: Pasted) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 64, 64), (3, 40, 96), (2, 13, 9), (1, 1, 1)])
@pytest.mark.parametrize("even", [False, True])
def test_the_mask_is_what_differs_and_never_empty(shape: tuple[int, int, int], even: bool) -> None:
    images = torch.full((60, *shape), 0.25) if even else rough(60, 96, shape[0])[..., : shape[1], : shape[2]]
    kept = images.clone()
    pasted = paste_defects(images, range(60))
    assert torch.equal(images, kept)
    assert pasted.images.shape == images.shape
    assert pasted.images.dtype == torch.float32
    assert pasted.masks.shape == (60, 1, *shape[1:])
    assert pasted.masks.dtype == torch.float32
    assert torch.equal(pasted.masks.bool(), differs(images, pasted.images))
    assert set(pasted.masks.unique().tolist()) <= {0.0, 1.0}
    assert (pasted.masks.flatten(1).sum(1) >= 1).all()
    assert pasted.images.min() >= 0
    assert pasted.images.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_visibly(kind: str) -> None:
    images = rough(40, 128)
    pasted = paste_defects(images, range(40), kinds=[kind], size=(16, 34))
    assert [KINDS[k] for k in pasted.kinds.tolist()] == [kind] * 40
    change = (pasted.images - images).abs().amax(1, keepdim=True)
    mean = (change * pasted.masks).flatten(1).sum(1) / pasted.masks.flatten(1).sum(1)
    assert (mean > 0.03).all()


def test_a_kind_that_can_change_nothing_is_replaced_and_told() -> None:
    images = torch.full((20, 1, 64, 64), 0.5)
    pasted = paste_defects(images, range(20), kinds=["blurred", "shifted", "pasted"])
    assert {KINDS[k] for k in pasted.kinds.tolist()} <= {"recoloured", "noise", "flat"}
    assert (pasted.masks.flatten(1).sum(1) >= 3).all()


def test_kinds_are_what_they_say() -> None:
    """Flat defects have less variation than what they replace, noisy ones more, blurred ones smaller gradients."""
    images = rough(60, 128)

    def inner(kind: str) -> tuple[Any, Any]:
        pasted = paste_defects(images, range(60), kinds=[kind], shapes=["ellipse"], size=(30, 34))
        ratios = []
        for before, after, mask in zip(images, pasted.images, pasted.masks, strict=True):
            core = torch.from_numpy(ndimage.binary_erosion(mask[0].numpy(), iterations=4))
            if core.sum() > 50:
                spread = [x[:, core].std(dim=1).mean() for x in (before, after)]
                edges = [(x.diff(dim=2).abs().mean(0) * core[:, 1:]).sum() for x in (before, after)]
                ratios.append((spread[1] / spread[0], edges[1] / edges[0]))
        return tuple(torch.tensor(ratios).median(dim=0).values.tolist())

    assert inner("flat")[0] < 0.3
    assert inner("blurred")[1] < 0.75
    assert inner("noise")[1] > 1.2
    shifted = inner("shifted")
    assert 0.8 < shifted[0] < 1.25
    assert 0.8 < shifted[1] < 1.25


def test_outlines_are_bars_ellipses_and_blobs() -> None:
    """By the share of the mask's own bounding circle that it fills."""
    images = torch.full((60, 1, 256, 256), 0.5)
    fill, convex = {}, {}
    for shape in SHAPES:
        masks = paste_defects(images, range(60), kinds=["flat"], shapes=[shape], size=(30, 34)).masks[:, 0].numpy()
        shares, notches = [], []
        for mask in masks:
            points = np.argwhere(mask)
            if points.min() < 2 or points.max() > 253:
                continue  # cut by the border
            middle = points.mean(0)
            far = np.hypot(*(points - middle).T).max()
            shares.append(len(points) / (np.pi * far * far))
            mirrored = np.rint(2 * middle - points).astype(int)
            notches.append(mask[mirrored[:, 0].clip(0, 255), mirrored[:, 1].clip(0, 255)].mean())
        fill[shape], convex[shape] = np.median(shares), np.median(notches)
    assert fill["bar"] < 0.35 < 0.5 < fill["ellipse"]
    assert convex["ellipse"] > 0.97 > convex["blob"]  # an ellipse is its own mirror image
    assert fill["blob"] > fill["bar"]


def test_every_kind_and_outline_is_drawn_about_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for name, outline in OUTLINES.items():

        def noted(*given: Any, name: str = name, outline: Any = outline) -> Any:
            drawn.append(name)
            return outline(*given)

        monkeypatch.setitem(OUTLINES, name, noted)
    pasted = paste_defects(rough(20, 64, 1).repeat(24, 1, 1, 1), range(480))
    for counts in (torch.bincount(pasted.kinds, minlength=6).numpy(), np.array([drawn.count(s) for s in SHAPES])):
        expected = counts.sum() / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-squared, p = .001 at 5 degrees of freedom


@pytest.mark.parametrize("sources", [False, True])
def test_an_image_depends_on_its_seed_alone(sources: bool) -> None:
    images, pool = rough(12), rough(5).flip(0, 3) if sources else None
    seeds = [5, 2**40, 7, 0, -3, 11, 12, 13, 14, 15, 16, 17]
    every = paste_defects(images, seeds, sources=pool)
    assert same(every, paste_defects(images, seeds, sources=pool))
    order = [7, 3, 11, 0]
    some = paste_defects(images[order], [seeds[i] for i in order], sources=pool)
    assert same(some, Pasted(*(part[order] for part in every)))
    torch.manual_seed(99)
    alone = paste_defects(images[4:5], seeds[4:5], sources=pool)
    assert same(alone, Pasted(*(part[4:5] for part in every)))
    other = paste_defects(images, [seed + 1 for seed in seeds], sources=pool)
    assert not any(torch.equal(a, b) for a, b in zip(every.masks, other.masks, strict=True))


def _in_a_process(seed: int) -> list[Any]:
    torch.set_num_threads(2)
    return [part.numpy() for part in paste_defects(rough(4), range(seed, seed + 4))]


@pytest.mark.slow
def test_another_process_pastes_the_same() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(_in_a_process, 50).result()
    for ours, theirs in zip(paste_defects(rough(4), range(50, 54)), there, strict=True):
        assert np.array_equal(ours.numpy(), theirs)


def test_radii_scale_with_the_image() -> None:
    """An ellipse of radius r covers between .35 and 1 of pi r^2; the soft edge adds at most 2 pixels at 256."""
    for size in (64, 256):
        images, scale = torch.full((40, 1, size, size), 0.5), size / 256
        masks = paste_defects(images, range(40), kinds=["flat"], shapes=["ellipse"], size=(20, 20)).masks
        inside = torch.nn.functional.pad(torch.zeros(1, size - 2, size - 2), [1] * 4, value=1.0)
        whole = masks[(masks * inside).flatten(1).sum(1) == 0].flatten(1).sum(1)
        assert len(whole) > 10
        assert (whole > 0.3 * np.pi * (19 * scale) ** 2).all()
        assert (whole < np.pi * (20 * scale + 3.5) ** 2).all()
    areas = paste_defects(torch.full((300, 1, 256, 256), 0.5), range(300), kinds=["flat"]).masks.flatten(1).sum(1)
    assert areas.max() < np.pi * 38**2
    assert areas.median() > 20
    assert areas.quantile(0.9) > 10 * areas.quantile(0.1)  # small and large ones


def test_half_of_the_centres_lie_on_the_object() -> None:
    images = disks(20).repeat(15, 1, 1, 1)
    masks = paste_defects(images, range(300), kinds=["recoloured"], shapes=["ellipse"], size=(4, 6)).masks[:, 0]
    on_object = (images < 0.9).any(dim=1)
    share = on_object.float().mean()  # about .1 by chance
    hit = (masks.bool() & on_object).flatten(1).any(1).float().mean()
    assert 0.45 + share / 2 < hit < 0.65 + share / 2
    y, x = (masks * torch.linspace(0, 1, 128)[:, None]).sum((1, 2)), (masks * torch.linspace(0, 1, 128)).sum((1, 2))
    count = masks.sum((1, 2))
    assert ((y / count > 0.6) | (x / count > 0.6)).float().mean() > 0.2  # and the others anywhere


def test_textures_have_defects_everywhere() -> None:
    masks = paste_defects(rough(20).repeat(20, 1, 1, 1), range(400), size=(4, 8)).masks[:, 0]
    hits = torch.nn.functional.max_pool2d(masks.unsqueeze(1), 32).flatten(1).mean(0)  # quarters
    assert (hits > 0.15).all()


def test_pixels_are_pasted_from_the_sources() -> None:
    images, sources = torch.full((30, 3, 64, 64), 0.2), torch.full((2, 3, 64, 64), 0.8)
    pasted = paste_defects(images, range(30), kinds=["pasted"], size=(20, 30), sources=sources)
    for image, mask in zip(pasted.images, pasted.masks, strict=True):
        core = torch.from_numpy(ndimage.binary_erosion(mask[0].numpy(), iterations=2))
        assert torch.allclose(image[:, core], torch.tensor(0.8))


def test_edges_are_soft() -> None:
    pasted = paste_defects(
        torch.zeros(30, 1, 256, 256), range(30), kinds=["pasted"], size=(30, 34), sources=torch.ones(1, 1, 256, 256)
    )
    between = ((pasted.images > 0) & (pasted.images < 1)).flatten(1).float().sum(1)
    assert (between > 20).all()


def test_nothing_to_do_and_foreign_dtypes() -> None:
    assert paste_defects(torch.zeros(0, 3, 8, 8), []).images.shape == (0, 3, 8, 8)
    doubled = paste_defects(rough(2).double(), [1, 2])
    assert same(doubled, paste_defects(rough(2), [1, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 8, 8)}, "must be float"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "must be float"),
        ({"images": torch.full((2, 1, 8, 8), 255.0)}, r"values in \[0, 1\]"),
        ({"images": torch.full((2, 1, 8, 8), torch.nan)}, r"values in \[0, 1\]"),
        ({"seeds": [1]}, "one seed per image, got 1 seeds for 2"),
        ({"kinds": ["blured"]}, "did you mean 'blurred'"),
        ({"kinds": "noise"}, "list with at least one"),
        ({"kinds": []}, "list with at least one"),
        ({"shapes": ["star"]}, "Unknown shape of defect 'star'"),
        ({"size": (0, 4)}, "0 < smallest <= largest"),
        ({"size": (9, 4)}, "0 < smallest <= largest"),
        ({"sources": torch.zeros(1, 3, 8, 8)}, r"must be \(N, 1, 8, 8\)"),
        ({"sources": torch.zeros(0, 1, 8, 8)}, r"must be \(N, 1, 8, 8\)"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"images": torch.zeros(2, 1, 8, 8), "seeds": [1, 2], **change}
    with pytest.raises(VaexError, match=message):
        paste_defects(given.pop("images"), given.pop("seeds"), **given)
