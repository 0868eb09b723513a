"""The attention figure: what is drawn where, that no text overlaps, one scale, and no trace left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vaex.errors import VaexError
from vaex.viz import attention_figure, figure_to_array, overlay
from vaex.viz.grid import _wrapped
from vaex.viz.tiles import OUTLINE


def _case(count: int, targets: int, size: int = 28, channels: int = 1) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "images": generator.random((count, channels, size, size)),
        "reconstructions": generator.random((count, channels, size, size)),
        "maps": generator.random((count, targets, size, size)).astype(np.float32),
        "titles": [f"z{t}  KL {t / 2:.1f} nats" for t in range(targets)],
    }


def _texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def _contains(picture: np.ndarray, tile: np.ndarray) -> bool:
    """Whether the tile stands somewhere in the picture, pixel by pixel."""
    high, wide = tile.shape[:2]
    candidates = np.argwhere((picture[: -high + 1, : -wide + 1] == tile[0, 0]).all(axis=2))
    return any(np.array_equal(picture[y : y + high, x : x + wide], tile) for y, x in candidates)


@pytest.mark.parametrize(
    ("count", "targets", "options"),
    [
        (1, 1, {}),
        (1, 1, {"scores": [3.0], "rows": ["broken_large"], "masks": np.ones((1, 1, 28, 28))}),
        (4, 3, {"score_maps": np.ones((4, 1, 28, 28)), "label": "attention (gradient x activation) of the last layer"}),
        (3, 2, {"titles": [[f"image {n} z{t} has a long $label_{t}" for t in range(2)] for n in range(3)]}),
        (2, 2, {"titles": ["Donaudampfschifffahrtsgesellschaftskapitaen"] * 2, "reconstructions": None}),
        (16, 12, {"scores": np.arange(16) * 1e5}),
        (2, 1, {"vmax": 3.8e-4, "score_maps": np.full((2, 1, 28, 28), 3.8e-4)}),  # long numbers beside both bars
    ],
)
def test_texts_are_on_the_page_and_do_not_overlap(count: int, targets: int, options: dict[str, Any]) -> None:
    figure = attention_figure(**{**_case(count, targets), **options})
    high, wide = figure_to_array(figure).shape[:2]
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
    assert len(boxes) > targets + 3
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= wide, text
        assert box.y1 <= high, text
    for (one, a), (other, b) in combinations(boxes, 2):
        shared = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(shared) <= 0, (one, other)


def test_labels_say_what_is_what() -> None:
    case = _case(2, 3)
    texts = [text.get_text() for text in _texts(attention_figure(**case, scores=[0.25, 7.0], rows=["good", "crack"]))]
    assert texts.count("input") == texts.count("reconstruction") == 1
    for title in (*case["titles"], "attention", "good\nscore 0.25", "crack\nscore 7"):
        assert title in texts
    case["titles"] = [[f"z{t} KL {n}.{t}" for t in range(3)] for n in range(2)]
    texts = [text.get_text() for text in _texts(attention_figure(**case))]
    assert all(label in texts for row in case["titles"] for label in row)


def test_pixels_are_those_of_the_images_and_of_the_overlays_on_one_scale() -> None:
    case = _case(2, 2, channels=3)
    case["maps"][1, 1] *= 9
    picture = figure_to_array(attention_figure(**case))
    top = float(case["maps"].max())
    for n in range(2):
        image = np.moveaxis(case["images"][n], 0, 2)
        shown = np.rint(image * 255).astype(np.uint8)
        assert _contains(picture, shown.repeat(8, axis=0).repeat(8, axis=1))  # 28 * 8 = 224
        for t in range(2):
            tile = overlay(shown / 255, case["maps"][n, t], vmax=top)
            assert _contains(picture, tile.repeat(8, axis=0).repeat(8, axis=1))
    assert not _contains(picture, overlay(shown / 255, case["maps"][1, 0]).repeat(8, axis=0).repeat(8, axis=1))


def test_a_file_of_another_resolution_shows_the_same(tmp_path: Path) -> None:
    figure = attention_figure(**_case(2, 2))
    own = figure_to_array(figure).astype(float)
    figure.savefig(tmp_path / "large.png", dpi=2 * figure.dpi)  # which matplotlib resizes its own way
    figure.savefig(tmp_path / "page.pdf")
    large = np.asarray(Image.open(tmp_path / "large.png").convert("RGB")).astype(float)
    assert large.shape == (2 * own.shape[0], 2 * own.shape[1], 3)
    halved = large.reshape(own.shape[0], 2, own.shape[1], 2, 3).mean((1, 3))
    assert np.median(np.abs(halved - own).max(axis=2)) == 0
    assert np.abs(halved - own).mean() < 3  # of 255: lines and letters differ at their edges


def test_bar_carries_the_scale() -> None:
    case = _case(1, 2)
    case["maps"][:] = 0.5
    bar = attention_figure(**case, vmax=4.0).axes[-1]
    assert bar.get_ylim() == (0, 4)
    assert bar.get_ylabel() == "attention"
    case["maps"][0, 0, 0, 0] = -8.0
    assert attention_figure(**case).axes[-1].get_ylim() == (-8, 8)  # signed, because a map is
    case["maps"][:] = 0
    assert [text.get_text() for text in attention_figure(**case).axes[-1].get_yticklabels()] == ["0", "0.5", "1"]
    with_scores = attention_figure(**case, score_maps=np.full((1, 1, 28, 28), 6.0))
    assert [(axes.get_ylabel(), axes.get_ylim()[1]) for axes in with_scores.axes[1:]] == [
        ("attention", 1),
        ("score", 6),
    ]


def test_masks_are_outlined_on_input_and_maps_alone() -> None:
    case = _case(1, 2, size=64)
    masks = np.zeros((1, 1, 64, 64))
    masks[..., 20:30, 20:40] = 1
    plain, drawn = (figure_to_array(attention_figure(**case, masks=m)) for m in (np.zeros_like(masks), masks))
    changed = (plain != drawn).any(axis=2)
    assert (drawn[changed] == OUTLINE).all()
    columns = np.flatnonzero(np.diff(np.flatnonzero(changed.any(axis=0))) > 50)  # gaps between the outlines
    assert len(columns) == 2  # three outlines: input, two maps


def test_images_of_another_range_are_stretched_with_their_reconstructions() -> None:
    case = _case(2, 1)
    plain = figure_to_array(attention_figure(**{**case, "images": np.clip(case["images"], 0, 0.999)}))
    images, recons = case["images"].copy(), case["reconstructions"].copy()
    images[0, 0, 0, :2] = recons[0, 0, 0, :2] = 0, 1
    unit = figure_to_array(attention_figure(images, recons, case["maps"], titles=["z"]))
    wide = figure_to_array(attention_figure(images * 6 - 3, recons * 6 - 3, case["maps"], titles=["z"]))
    assert np.abs(unit.astype(int) - wide).max() <= 1
    assert not np.array_equal(plain, wide)


@pytest.mark.parametrize("size", [(28, 28), (256, 256), (300, 20), (1, 1)])
def test_any_size_fits(size: tuple[int, int]) -> None:
    maps = np.zeros((2, 3, *size))
    picture = figure_to_array(attention_figure(np.zeros((2, 1, *size)), None, maps, titles=["a", "b", "c"]))
    assert 100 < min(picture.shape[:2]) <= max(picture.shape[:2]) < 3000


def test_figures_are_collected_and_pyplot_is_never_loaded() -> None:
    figure = attention_figure(**_case(1, 1))
    figure_to_array(figure)
    gone = weakref.ref(figure)
    del figure
    gc.collect()
    assert gone() is None
    code = (
        "import sys, numpy as np, vaex.viz as v\n"
        "v.figure_to_array(v.attention_figure(np.zeros((1, 1, 4, 4)), None, np.zeros((1, 1, 4, 4)), titles=['z']))\n"
        "print([name for name in ('matplotlib.pyplot', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_input() -> None:
    case = _case(2, 3)
    for change, message in (
        ({"images": np.zeros((0, 1, 28, 28))}, "at least one image"),
        ({"reconstructions": np.zeros((2, 1, 14, 14))}, r"reconstructions .* \(2, 1, 28, 28\)"),
        ({"maps": np.zeros((2, 3, 14, 14))}, r"maps .* got \(2, 3, 14, 14\)"),
        ({"maps": np.zeros((2, 0, 28, 28))}, "maps .* 'T'"),
        ({"maps": np.full((2, 3, 28, 28), np.nan)}, "NaN"),
        ({"titles": ["a", "b"]}, "must be 3 strings, or 2 lists of 3"),
        ({"titles": [["a", "b", "c"]]}, "must be 3 strings, or 2 lists of 3"),
        ({"masks": np.zeros((2, 28, 28))}, "masks"),
        ({"score_maps": np.full((2, 1, 28, 28), -1.0)}, "negative"),
        ({"scores": [1.0]}, "scores"),
        ({"rows": ["a", "b", "c"]}, "rows"),
        ({"colormap": "jet"}, "Unknown sequential colour map 'jet'"),
    ):
        with pytest.raises(VaexError, match=message):
            attention_figure(**{**case, **change})


def test_file_names_break_where_their_parts_meet() -> None:
    assert _wrapped("broken_large.png", 120).split("\n") == ["broken_large", ".png"]
    assert _wrapped("one_of_many_scratches_left.png", 120).split("\n") == ["one_of_many_", "scratches_left", ".png"]
    assert "".join(_wrapped("x" * 60, 120).split("\n")) == "x" * 60
