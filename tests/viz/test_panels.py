"""Panels of one image: what is drawn where, one scale, and that opacity reaches the colours."""

from __future__ import annotations

import numpy as np
import pytest

from vaex.errors import VaexError
from vaex.viz import figure_to_array, images_panel, maps_panel, overlay, tile_panel
from vaex.viz.overlays import Pixels
from vaex.viz.panels import LARGE
from vaex.viz.tiles import framed

IMAGES = np.random.default_rng(0).random((2, 1, 200, 200))
MAPS = np.random.default_rng(1).random((2, 5, 200, 200)) * np.array([1, 2])[:, None, None, None]


def places(picture: Pixels, tile: Pixels) -> list[tuple[int, int]]:
    """Where the tile stands in the picture, pixel by pixel."""
    starts = np.argwhere((picture[:-199, :-199] == tile[0, 0]).all(-1))
    return [(y, x) for y, x in starts.tolist() if np.array_equal(picture[y : y + 200, x : x + 200], tile)]


def test_versions_of_an_image_stand_below_each_other_on_one_scale() -> None:
    titles = [f"z{i}" for i in range(5)]
    picture = figure_to_array(
        maps_panel(IMAGES, MAPS, titles=titles, rows=["image", "decoded"], opacity=0.5, columns=3)
    )
    grey = np.rint(IMAGES[:, 0] * 255) / 255
    found = {}
    for n in range(2):
        for t in range(5):
            (found[n, t],) = places(picture, overlay(grey[n], MAPS[n, t], vmax=float(MAPS.max()), opacity=0.5))
    for t in range(5):
        assert found[0, t][1] == found[1, t][1] == found[0, t % 3][1]
        assert found[0, t][0] < found[1, t][0]
    assert found[1, 2][0] < found[0, 3][0]  # the second row of latents begins below both versions of the first
    assert found[0, 0][1] < found[0, 1][1] < found[0, 2][1]


def test_signed_maps_are_drawn_in_two_directions() -> None:
    maps = MAPS - 1
    picture = figure_to_array(maps_panel(IMAGES[:1], maps[:1, :1], titles=["z0"], rows=["image"]))
    grey, top = np.rint(IMAGES[0, 0] * 255) / 255, float(np.abs(maps[0, 0]).max())
    assert places(picture, overlay(grey, maps[0, 0], vmax=top, signed=True))


def test_score_maps_share_a_scale_that_begins_at_0() -> None:
    first, second = MAPS[0, 0] - 0.5, MAPS[1, 0]
    scored = [("a", IMAGES[0], first), ("b", IMAGES[1], second)]
    picture = figure_to_array(images_panel([("image", IMAGES[0])], scored))
    grey, top = np.rint(IMAGES[:, 0] * 255) / 255, float(second.max())
    (image,) = places(picture, np.repeat(np.rint(IMAGES[0, 0] * 255).astype(np.uint8)[..., None], 3, axis=2))
    (a,) = places(picture, overlay(grey[0], first.clip(0), vmax=top, colormap="viridis"))
    (b,) = places(picture, overlay(grey[1], second, vmax=top, colormap="viridis"))
    assert image[0] == a[0] == b[0]
    assert image[1] < a[1] < b[1]


def test_score_maps_may_be_on_the_scale_of_another() -> None:
    picture = figure_to_array(images_panel([], [("a", IMAGES[0], MAPS[0, 0])], vmax=5.0))
    grey = np.rint(IMAGES[0, 0] * 255) / 255
    assert places(picture, overlay(grey, MAPS[0, 0], vmax=5.0, colormap="viridis"))


def test_a_tile_is_outlined_in_the_image_and_its_score_map() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    picture = figure_to_array(tile_panel(colours, MAPS[0, 0] - 0.5, (100, 40, 200, 80), (400, 400), vmax=2.0))
    large = colours.repeat(2, axis=0).repeat(2, axis=1)
    over = overlay(colours / 255, (MAPS[0, 0] - 0.5).clip(0), vmax=2.0, colormap="viridis")
    coloured = over.repeat(2, axis=0).repeat(2, axis=1)
    ((y, x),) = places(picture, framed(large, (100, 40, 200, 80))[:200, :200])
    ((again, beside),) = places(picture, framed(coloured, (100, 40, 200, 80))[:200, :200])
    assert y == again
    assert x + LARGE < beside


def test_a_large_image_is_made_smaller_and_the_map_keeps_its_peaks() -> None:
    values = np.zeros((600, 3 * LARGE))
    values[300, 700] = 1.0
    picture = figure_to_array(tile_panel(np.zeros((*values.shape, 3), np.uint8), values, (0, 0, 9, 9), (1200, 600)))
    strongest = overlay(np.zeros((1, 1, 1)), np.ones((1, 1)), vmax=1.0, colormap="viridis")[0, 0]
    assert (picture == strongest).all(-1).any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(VaexError, match="needs maps"):
        maps_panel(IMAGES, MAPS, titles=["z0"], rows=["image", "decoded"])
    with pytest.raises(VaexError, match="at least one score map"):
        images_panel([("image", IMAGES[0])], [])
