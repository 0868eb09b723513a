"""Mask files of any kind become 0 and 1 at the size of the model; one that does not fit its image is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaex.data.images import find_mask, images_in, read_mask, read_pixels
from vaex.errors import VaexError

Draw = Callable[..., Path]

MARKED = np.zeros((8, 8), dtype=bool)
MARKED[2:5, 3:7] = True


@pytest.mark.parametrize("marked", [255, 200, 1, 3])
def test_white_and_numbered_regions_are_marked(marked: int, draw: Draw) -> None:
    mask = read_mask(draw("m.png", (MARKED * marked).astype(np.uint8)), (8, 8))
    np.testing.assert_array_equal(mask.pixels[0], MARKED)
    assert mask.pixels.dtype == np.uint8
    assert not mask.resized
    assert not mask.empty


def test_grey_edges_of_a_white_mask_are_cut_at_half(draw: Draw) -> None:
    values = np.array([[0, 20, 127], [128, 200, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(read_mask(draw("m.png", values), (2, 3)).pixels[0], [[0, 0, 0], [1, 1, 1]])


def test_one_bit_sixteen_bit_palette_and_transparent_masks(draw: Draw, tmp_path: Path) -> None:
    palette = Image.fromarray(MARKED.astype(np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0])  # black, dark red
    palette.save(tmp_path / "palette.png")
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    clear[..., :3] = 255
    clear[..., 3] = MARKED * 255
    Image.fromarray(MARKED).save(tmp_path / "bit.png")
    files = [
        tmp_path / "palette.png",
        tmp_path / "bit.png",
        draw("wide.png", MARKED.astype(np.uint16) * 65535),
        draw("wide_number.png", MARKED.astype(np.uint16) * 2),
        draw("clear.png", clear),
        draw("m.bmp", MARKED.astype(np.uint8) * 255),
        draw("m.tif", MARKED.astype(np.uint8) * 255),
    ]
    for file in files:
        np.testing.assert_array_equal(read_mask(file, (8, 8)).pixels[0], MARKED, err_msg=file.name)


def test_noise_of_an_empty_jpeg_is_no_defect(draw: Draw) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (8, 8)).astype(np.uint8)
    mask = read_mask(draw("m.jpg", noise), (8, 8))
    assert mask.empty
    assert not mask.pixels.any()


def test_a_mask_is_resized_by_area(draw: Draw) -> None:
    """Against the plain mean of each 4 x 4 block."""
    marked = np.random.default_rng(1).random((32, 32)) < 0.55
    share = marked.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    mask = read_mask(draw("m.png", (marked * 255).astype(np.uint8)), (8, 8))
    np.testing.assert_array_equal(mask.pixels[0], share > 0.5)


def test_a_defect_finer_than_a_pixel_is_kept(draw: Draw) -> None:
    marked = np.zeros((64, 64), dtype=np.uint8)
    marked[33, 8:24] = 255  # one row of 64: a share of 1/8 in the pixels that it crosses
    mask = read_mask(draw("m.png", marked), (8, 8))
    expected = np.zeros((8, 8))
    expected[4, 1:3] = 1
    np.testing.assert_array_equal(mask.pixels[0], expected)


def test_a_mask_must_have_the_proportions_of_its_image(draw: Draw) -> None:
    image = draw("x.png", size=(16, 16))
    with pytest.raises(VaexError, match=r"m\.png is 16x8 pixels, but its image .*x\.png is 16x16"):
        read_mask(draw("m.png", np.zeros((8, 16), np.uint8)), (8, 8), image)
    half = read_mask(draw("half.png", np.ones((8, 8), np.uint8)), (8, 8), image)
    assert half.resized
    assert half.pixels.all()
    assert not read_mask(draw("same.png", np.ones((16, 16), np.uint8)), (8, 8), image).resized


def test_a_mask_drawn_on_the_turned_image_fits(draw: Draw) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image = draw("x.jpg", size=(24, 12), exif=exif)
    assert read_pixels(image, (3, 24, 12)).shape == (3, 24, 12)
    assert not read_mask(draw("m.png", np.ones((24, 12), np.uint8)), (8, 8), image).resized
    with pytest.raises(VaexError, match=r"24x12 pixels, but its image .* is 12x24"):
        read_mask(draw("flat.png", np.ones((12, 24), np.uint8)), (8, 8), image)


def test_a_broken_mask_is_named(tmp_path: Path, draw: Draw) -> None:
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(VaexError, match=r"The mask .*m\.png cannot be read"):
        read_mask(tmp_path / "m.png", (8, 8))


def test_pixels_are_those_of_the_file(draw: Draw) -> None:
    colour = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_pixels(draw("x.png", colour), (3, 8, 8)), colour.transpose(2, 0, 1))
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    expected = np.repeat(np.rint(wide / 257)[None], 3, axis=0)
    np.testing.assert_array_equal(read_pixels(draw("wide.png", wide), (3, 8, 8)), expected)
    palette = Image.fromarray((colour[..., 0] % 2).astype(np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    file = draw("p.png", colour)
    palette.save(file)
    assert sorted({tuple(p) for p in read_pixels(file, (3, 8, 8)).reshape(3, -1).T.tolist()}) == [
        (10, 20, 30),
        (200, 100, 50),
    ]


def test_files_that_are_no_images_are_left_out(draw: Draw, tmp_path: Path) -> None:
    for name in ("b.PNG", "a.tif", "deep/c.bmp", "._a.tif", ".hidden/d.png"):
        draw(name, np.zeros((2, 2), np.uint8), format="PNG")
    (tmp_path / "Thumbs.db").write_bytes(b"")

    def names(deep: bool) -> Any:
        return [file.relative_to(tmp_path).as_posix() for file in images_in(tmp_path, deep)]

    assert names(deep=False) == ["a.tif", "b.PNG"]
    assert names(deep=True) == ["a.tif", "b.PNG", "deep/c.bmp"]
    assert images_in(tmp_path / "none") == []


def test_a_mask_is_found_by_the_name_of_its_image(draw: Draw, tmp_path: Path) -> None:
    for name in ("0_mask.png", "0.bmp", "1.bmp", "2_mask.PNG", "4.Png", "5_mask.Jpeg", "5.txt.png"):
        draw(name, np.zeros((2, 2), np.uint8), format="PNG")  # whatever the name says
    found = [find_mask(tmp_path, stem) for stem in ("0", "1", "2", "3", "4", "5")]
    assert [file and file.name for file in found] == ["0_mask.png", "1.bmp", "2_mask.PNG", None, "4.Png", "5_mask.Jpeg"]
