"""Which values of a mask file are marked: against the drawing that the file was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vaex.data.images import read_mask
from vaex.errors import VaexError

Draw = Callable[..., Path]

SIDE = 64
LEFT = np.zeros((SIDE, SIDE), dtype=bool)
LEFT[8:24, 6:26] = True
RIGHT = np.zeros((SIDE, SIDE), dtype=bool)
RIGHT[30:60, 30:58] = True
VOC = [0, 0, 0, 128, 0, 0, *[0] * 3 * 253, 224, 224, 192]  # background, first class, and the border at index 255


def marked(file: Path) -> Any:
    return read_mask(file, (SIDE, SIDE)).pixels[0].astype(bool)


def drawn(scale: int = 1, **colour: int) -> Image.Image:
    """A disc, a line and a square, ``scale`` times as large."""
    image = Image.new("L", (SIDE * scale, SIDE * scale))
    pen = ImageDraw.Draw(image)
    fill = colour.get("fill", 255)
    pen.ellipse([5 * scale, 6 * scale, 30 * scale, 25 * scale], fill=fill)
    pen.line([38 * scale, 4 * scale, 58 * scale, 50 * scale], fill=fill, width=3 * scale)
    pen.rectangle([8 * scale, 36 * scale, 24 * scale, 58 * scale], fill=fill)
    return image


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (1, 0), (100, 200), (3, 255), (1, 2), (127, 128), (200, 100)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_regions_are_marked_whatever_their_number(values: tuple[int, int], dtype: Any, draw: Draw) -> None:
    left, right = values
    for scale in (1, 257) if dtype is np.uint16 else (1,):
        pixels = (left * LEFT + right * RIGHT).astype(dtype) * dtype(scale)
        np.testing.assert_array_equal(marked(draw("m.png", pixels)), (LEFT & bool(left)) | (RIGHT & bool(right)))


def test_one_bright_pixel_and_a_fine_line_change_nothing(draw: Draw) -> None:
    pixels = LEFT.astype(np.uint8)
    pixels[40, 5:60] = 2  # one pixel high
    pixels[0, 0] = 255
    np.testing.assert_array_equal(marked(draw("m.png", pixels)), pixels > 0)


def test_touching_classes_are_all_marked(draw: Draw) -> None:
    classes = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for i in range(1, 22):
        classes[2 * i : 2 * i + 12, 10 + i : 40 + i] = i * 11  # each over the one before
    np.testing.assert_array_equal(marked(draw("m.png", classes)), classes > 0)


@pytest.mark.parametrize(
    "colours", [{"dark": (128, 0, 0), "light": (255, 255, 255)}, {"dark": (0, 0, 100), "light": (255, 0, 0)}]
)
def test_colours_are_regions_too(colours: dict[str, tuple[int, int, int]], draw: Draw) -> None:
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[LEFT], pixels[RIGHT] = colours["dark"], colours["light"]
    np.testing.assert_array_equal(marked(draw("m.png", pixels)), LEFT | RIGHT)


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 255, 0)])
@pytest.mark.parametrize("scale", [2, 3, 8])
def test_smoothed_edges_are_cut_at_half(scale: int, colour: tuple[int, int, int], draw: Draw) -> None:
    """Against the share of each pixel that the large drawing covers."""
    large = np.asarray(drawn(scale)) > 0
    share = large.reshape(SIDE, scale, SIDE, scale).mean(axis=(1, 3))
    pixels = np.rint(share[..., None] * np.array(colour)).astype(np.uint8)
    np.testing.assert_array_equal(marked(draw("m.png", pixels)), share > 0.4999)


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_the_noise_of_jpeg_is_not_marked_even_when_stored_as_png(quality: int, draw: Draw) -> None:
    shape = np.asarray(drawn()) > 0
    file = draw("m.jpg", shape.astype(np.uint8) * 255, quality=quality)
    noisy = np.asarray(Image.open(file))
    assert ((noisy > 0) != shape).mean() > 0.05  # the control: there is noise
    for name in ("m.jpg", "m.png", "m.tif"):
        copy = file if name == "m.jpg" else draw(name, noisy)
        assert (marked(copy) != shape).mean() < 0.01, name


def test_noise_in_a_jpeg_alone_is_no_defect_whatever_its_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (SIDE, SIDE)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "m.png", format="JPEG", quality=100)
    assert read_mask(tmp_path / "m.png", (SIDE, SIDE)).empty


def palette(path: Path, indices: Any, colours: list[int]) -> Path:
    image = Image.fromarray(indices.astype(np.uint8), mode="P")
    image.putpalette(colours)
    image.save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_in_a_palette_of_colours_all_but_the_first_are_marked(suffix: str, tmp_path: Path) -> None:
    voc = palette(tmp_path / f"voc.{suffix}", LEFT * 1 + RIGHT * 255, VOC)
    np.testing.assert_array_equal(marked(voc), LEFT | RIGHT)


def test_a_coloured_background_and_a_black_class(tmp_path: Path) -> None:
    coloured = palette(tmp_path / "a.png", LEFT * 1 + RIGHT * 2, [120, 120, 200, 255, 0, 0, 0, 0, 90])
    np.testing.assert_array_equal(marked(coloured), LEFT | RIGHT)
    black = palette(tmp_path / "b.png", LEFT * 1 + RIGHT * 2, [0, 0, 0, 255, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(marked(black), LEFT | RIGHT)
    unused = palette(tmp_path / "c.png", 1 + LEFT * 1 + RIGHT * 2, [9, 9, 9, 0, 0, 0, 255, 0, 0, 0, 255, 0])
    np.testing.assert_array_equal(marked(unused), LEFT | RIGHT)
    either = palette(tmp_path / "d.png", LEFT * 1 + RIGHT * 2, [255, 0, 0, 0, 0, 0, 0, 255, 0])
    with pytest.raises(VaexError, match=r"d\.png cannot be read .*index 0 of its palette is a colour and another one"):
        read_mask(either, (SIDE, SIDE))


def test_a_palette_of_greys_is_a_grey_image(tmp_path: Path) -> None:
    """Programs that make files small put the colours in any order."""
    turned = palette(tmp_path / "a.png", ~LEFT, [255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(marked(turned), LEFT)
    full = palette(tmp_path / "b.png", 0 * LEFT, [255, 255, 255])
    assert marked(full).all()
    assert read_mask(palette(tmp_path / "c.png", 0 * LEFT, [0, 0, 0, 255, 0, 0]), (SIDE, SIDE)).empty
