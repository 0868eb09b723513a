"""Traversals as pictures: where each decoded image lies, and frames that move."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vaex.errors import VaexError
from vaex.viz import figure_to_array, save_gif, traversal_figure, traversal_frames

T, V, SIDE = 3, 4, 64


def decoded() -> NDArray[Any]:
    """Return images of one grey each, all different."""
    greys = (np.arange(T * V, dtype=np.float64) + 1).reshape(T, V, 1, 1, 1) / 20
    return np.broadcast_to(greys, (T, V, 1, SIDE, SIDE)).copy()


def options() -> dict[str, Any]:
    image = np.zeros((1, SIDE, SIDE))
    return {"values": [-1.5, -0.04, 0.0, 1.5], "titles": ["z4", "z0", "z2"], "image": image}


def runs(line: NDArray[np.uint8]) -> list[int]:
    """Return the greys of the long runs of equal grey pixels in a row of pixels, white page left out."""
    edges = [0, *(np.flatnonzero(np.any(line[1:] != line[:-1], axis=1)) + 1), len(line)]
    spans = [(set(line[a].tolist()), b - a) for a, b in pairwise(edges)]
    return [min(colour) for colour, length in spans if length > 40 and len(colour) == 1 and min(colour) < 250]


def test_each_row_holds_the_image_and_its_traversal_in_order() -> None:
    picture = figure_to_array(traversal_figure(decoded(), **options()))
    rows = [found for line in picture if len(found := runs(line)) == 1 + V and set(found) != {190}]  # frames of cells
    distinct = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    assert distinct == [[0, *np.rint(decoded()[n, :, 0, 0, 0] * 255).astype(int)] for n in range(T)]


def test_the_map_of_each_latent_stands_in_its_row() -> None:
    """The second column is coloured only where the map of that row is above zero."""
    maps = np.zeros((T, SIDE, SIDE))
    maps[1, :, :] = 1.0
    picture = figure_to_array(traversal_figure(decoded(), **options(), maps=maps)).astype(int)
    plain = figure_to_array(traversal_figure(decoded(), **options(), maps=np.zeros_like(maps))).astype(int)
    changed = np.abs(picture - plain).max(2) > 60
    changed[:, -130:] = False  # the numbers of the colour bar
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    first = decoded()[1, 0, 0, 0, 0] * 255  # the row of latent 1 is where its first decoded image is
    lines = [y for y in range(len(picture)) if round(first) in runs(picture[y].astype(np.uint8))]
    assert min(lines) <= rows.min()
    assert rows.max() <= max(lines)
    assert rows.max() - rows.min() > 0.8 * (max(lines) - min(lines))
    assert columns.max() - columns.min() < 200


def test_frames_go_forth_and_back_and_show_every_latent() -> None:
    frames = traversal_frames(decoded(), columns=T)
    assert len(frames) == 2 * V - 2
    shown = [[int(frame[20, 20 + n * (SIDE + 2), 0]) for n in range(T)] for frame in frames]
    greys = np.rint(decoded()[:, :, 0, 0, 0] * 255).astype(int)
    assert shown == [greys[:, v].tolist() for v in (0, 1, 2, 3, 2, 1)]
    assert len(traversal_frames(decoded(), back=False)) == V


def test_a_gif_holds_the_frames_and_repeats(tmp_path: Path) -> None:
    frames = traversal_frames(decoded(), columns=T)
    path = save_gif(frames, tmp_path / "new" / "moving.gif", 0.25)
    with Image.open(path) as found:
        assert found.n_frames == len(frames)  # type: ignore[attr-defined]
        assert found.info["loop"] == 0
        for number, frame in enumerate(frames):
            found.seek(number)
            assert found.info["duration"] == 250
            np.testing.assert_allclose(np.asarray(found.convert("RGB")).astype(int), frame, atol=4)
    assert [other.name for other in path.parent.iterdir()] == ["moving.gif"]


def test_colours_survive_the_palette(tmp_path: Path) -> None:
    frames = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    for number in range(3):
        frames[number, :, :, number] = 255
    path = save_gif(frames, tmp_path / "rgb.gif")
    with Image.open(path) as found:
        for number in range(3):
            found.seek(number)
            assert np.asarray(found.convert("RGB"))[8, 8].tolist() == frames[number, 8, 8].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": [0.0]}, r"The values of a traversal must have 4"),
        ({"titles": ["z0"]}, r"The titles of a traversal must have 3"),
        ({"image": np.zeros((1, 8, 8))}, r"The image of a traversal must have \(1, 64, 64\)"),
        ({"maps": np.zeros((2, SIDE, SIDE))}, r"The maps of a traversal must have \(3, 64, 64\)"),
        ({"maps": np.full((T, SIDE, SIDE), np.nan)}, "NaN"),
    ],
)
def test_what_does_not_fit_is_told(change: dict[str, Any], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        traversal_figure(decoded(), **{**options(), **change})


def test_what_is_no_traversal_or_no_gif_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"must be \(T, V, C, H, W\)"):
        traversal_frames(np.zeros((2, 1, 8, 8)))
    with pytest.raises(VaexError, match=r"must end in \.gif"):
        save_gif(np.zeros((1, 4, 4, 3), dtype=np.uint8), tmp_path / "a.png")
    wrong: list[NDArray[Any]] = [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3))]
    for frames in wrong:
        with pytest.raises(VaexError, match="needs frames"):
            save_gif(frames, tmp_path / "a.gif")
    with pytest.raises(VaexError, match="more than 0 seconds"):
        save_gif(np.zeros((1, 4, 4, 3), np.uint8), tmp_path / "a.gif", 0)
