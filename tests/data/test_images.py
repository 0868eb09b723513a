"""Image files of any kind become what the model takes: range, proportions, transparency, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, ImageSequence

from vaex.data import Folder
from vaex.data.images import checked_white, image_files, image_size, read_image, read_mask, read_pixels
from vaex.errors import VaexError

GENERATOR = np.random.default_rng(5)


def saved(path: Path, array: Any, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_grey_and_colour_keep_their_values(tmp_path: Path) -> None:
    colour = GENERATOR.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = saved(tmp_path / "x.png", colour)
    np.testing.assert_allclose(read_image(file, (3, 8, 8)), colour.transpose(2, 0, 1) / 255, atol=1e-6)
    grey = read_image(file, (1, 8, 8))
    np.testing.assert_allclose(grey[0], colour @ np.array([0.299, 0.587, 0.114]) / 255, atol=1.01 / 255)
    assert grey.dtype == np.float32
    three = read_image(saved(tmp_path / "grey.png", colour[..., 0]), (3, 8, 8))
    np.testing.assert_allclose(three, np.repeat(colour[None, ..., 0] / 255, 3, axis=0), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_on_black(channels: int, tmp_path: Path) -> None:
    """A white disc drawn by its alpha alone: without it the whole image would be white."""
    alpha = GENERATOR.integers(0, 256, (8, 8), dtype=np.uint8)
    alpha[:4] = 0
    alpha[7] = 255
    white = np.full((8, 8), 255, dtype=np.uint8)
    expected = np.repeat(alpha[None] / 255, channels, axis=0)
    for name, planes in {"rgba.png": [white] * 3 + [alpha], "la.png": [white, alpha]}.items():
        read = read_image(saved(tmp_path / name, np.stack(planes, axis=-1)), (channels, 8, 8))
        np.testing.assert_allclose(read, expected, atol=1.01 / 255)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_black(suffix: str, tmp_path: Path) -> None:
    indices = np.zeros((8, 8), dtype=np.uint8)
    indices[2:5, 3:6] = 1
    image = Image.fromarray(indices, mode="P")
    image.putpalette([255, 255, 255, 255, 0, 0])  # 0 white, 1 red
    image.save(tmp_path / f"x.{suffix}", transparency=0)
    expected = np.zeros((3, 8, 8))
    expected[0, 2:5, 3:6] = 1
    np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}", (3, 8, 8)), expected)


def test_a_transparent_colour_of_an_rgb_file_is_black(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 255, dtype=np.uint8)
    pixels[2:5, 3:6] = (255, 0, 0)
    file = saved(tmp_path / "x.png", pixels, transparency=(255, 255, 255))
    expected = np.zeros((3, 8, 8))
    expected[0, 2:5, 3:6] = 1
    np.testing.assert_array_equal(read_image(file, (3, 8, 8)), expected)


def test_other_proportions_are_stretched_not_cropped(tmp_path: Path) -> None:
    wide = np.zeros((10, 40), dtype=np.uint8)
    wide[:, :20] = 255
    read = read_image(saved(tmp_path / "wide.png", wide), (1, 20, 20))[0]
    assert read.shape == (20, 20)
    assert read[:, :8].min() > 0.95
    assert read[:, 12:].max() < 0.05


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    np.testing.assert_allclose(
        read_image(saved(tmp_path / "x.png", values), (1, 8, 8))[0], values / 65535, atol=1e-4, rtol=1e-4
    )


def test_white_is_what_the_camera_says(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65  # 0 to 4095, 12 bits
    file = saved(tmp_path / "x.png", values)
    np.testing.assert_allclose(read_image(file, (1, 8, 8), white=4095)[0], values / 4095, atol=1e-6)
    assert len(np.unique(read_pixels(file, (1, 8, 8)))) == 17  # the control: the range of the file leaves few greys
    assert len(np.unique(read_pixels(file, (1, 8, 8), 4095))) == 64
    np.testing.assert_allclose(read_image(file, (1, 8, 8), white=2000)[0], np.minimum(values / 2000, 1), atol=1e-6)
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 4095\n" + values.astype(">u2").tobytes())  # it says so itself
    np.testing.assert_allclose(read_image(tmp_path / "x.pgm", (1, 8, 8), white=9)[0], values / 4095, atol=1e-5)
    eight = saved(tmp_path / "y.png", values.astype(np.uint8))
    np.testing.assert_array_equal(read_image(eight, (1, 8, 8), white=4095), read_image(eight, (1, 8, 8)))


def test_floating_point_files_share_one_range(tmp_path: Path) -> None:
    """A dark and a light picture stay so: no picture is spread to its own brightest pixel."""
    base = np.linspace(-0.5, 1, 64, dtype=np.float32).reshape(8, 8)
    for name, factor in (("light", 1.0), ("dark", 0.25)):
        file = saved(tmp_path / f"{name}.tif", base * np.float32(factor))
        np.testing.assert_allclose(read_image(file, (1, 8, 8))[0], np.clip(base * factor, 0, 1), atol=1e-6)
    file = saved(tmp_path / "counts.tif", base * np.float32(800))
    with pytest.raises(VaexError, match=r"counts\.tif .*brightest value is 800, but 1 would be white; set data\.white"):
        read_image(file, (1, 8, 8))
    np.testing.assert_allclose(read_image(file, (1, 8, 8), white=1000)[0], np.clip(base * 0.8, 0, 1), atol=1e-6)
    wide = saved(tmp_path / "wide.tif", np.full((8, 8), 70_000, dtype=np.int32))
    with pytest.raises(VaexError, match="brightest value is 70000, but 65535 would be white"):
        read_image(wide, (1, 8, 8))


@pytest.mark.parametrize("white", [0, -1, True, "4095", float("nan"), float("inf"), [1]])
def test_what_cannot_be_white(white: Any) -> None:
    with pytest.raises(VaexError, match=r"data\.white must be the value that is white, a number above 0, or null"):
        checked_white(white)
    with pytest.raises(VaexError, match=r"data\.white"):
        Folder(normal_dir="x", white=white)


def damaged_tiff(path: Path) -> Path:
    """A TIFF whose tag StripOffsets says that it holds text: Pillow 12 raises a TypeError."""
    content = bytearray(saved(path, np.zeros((8, 8), np.uint8)).read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry) == (273,):
            struct.pack_into("<H", content, entry + 2, 2)
    path.write_bytes(content)
    return path


def test_a_damaged_tiff_is_named(tmp_path: Path) -> None:
    file, whole = damaged_tiff(tmp_path / "x.tif"), saved(tmp_path / "y.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(TypeError), Image.open(file) as opened:  # the control
        opened.load()
    for read in (lambda: read_image(file, (1, 8, 8)), lambda: read_pixels(file, (1, 8, 8))):
        with pytest.raises(VaexError, match=r"^.*x\.tif cannot be read as an image \(.+\)"):
            read()
    with pytest.raises(VaexError, match=r"^The mask .*x\.tif cannot be read as an image \(.+\)"):
        read_mask(file, (8, 8))
    for number in range(4):
        saved(tmp_path / f"good{number}.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(VaexError, match=r"x\.tif cannot be read"):
        Folder(normal_dir=str(tmp_path), size=8).setup()
    (tmp_path / "y.png").write_bytes(b"no")
    with pytest.raises(VaexError, match=r"^.*y\.png cannot be read as an image"):  # not the mask
        read_mask(saved(tmp_path / "m.png", np.zeros((8, 8), np.uint8)), (8, 8), whole)


@pytest.mark.parametrize(
    "error", [MemoryError(), IndexError("x"), KeyError(3), ZeroDivisionError("y"), KeyboardInterrupt()]
)
def test_whatever_decoding_raises_is_told_but_an_interrupt(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    file = saved(tmp_path / "x.png", np.zeros((8, 8), np.uint8))
    monkeypatch.setattr("vaex.data.images.Image.open", fails)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else VaexError
    for read in (lambda: read_image(file, (1, 8, 8)), lambda: read_mask(file, (8, 8)), lambda: image_size(file)):
        with pytest.raises(expected) as caught:
            read()
        if expected is VaexError:
            assert "x.png cannot be read as an image (" in str(caught.value)
            assert "()" not in str(caught.value)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    read = read_image(saved(tmp_path / "x.png", pixels, exif=exif), (1, 8, 8))[0]
    np.testing.assert_array_equal(read, pixels[::-1] / 255)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 20])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(VaexError, match=r"x\.png cannot be read as an image"):
        read_image(tmp_path / "x.png", (1, 8, 8))


def test_files_cut_short_and_values_that_are_no_numbers(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", GENERATOR.integers(0, 256, (32, 32), dtype=np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    saved(tmp_path / "nan.tif", np.full((8, 8), np.nan, dtype=np.float32))
    for name in ("cut.png", "nan.tif"):
        with pytest.raises(VaexError, match="cannot be read as an image"):
            read_image(tmp_path / name, (1, 8, 8))


def test_files_of_a_folder_in_order_without_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "b" / ".thumbs").mkdir(parents=True)
    for name in ("b/z.PNG", "a.jpg", "b/.thumbs/x.png", ".y.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)] == ["a.jpg", "b/z.PNG"]
    with pytest.raises(VaexError, match="No image or folder"):
        image_files(tmp_path / "none")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("x.jpg", {}), ("x.png", {}), ("x.webp", {}), ("x.tif", {})),
        *(("x.tif", {"compression": "tiff_lzw"}), ("x.tif", {"compression": "jpeg"})),
    ],
)
def test_size_is_that_of_the_picture_as_shown(
    name: str, options: dict[str, Any], orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif, **options)
    expected = (20, 30) if orientation >= 5 else (30, 20)  # 5 to 8 exchange rows and columns
    assert image_size(tmp_path / name) == expected
    with Image.open(tmp_path / name) as shown:
        assert ImageOps.exif_transpose(shown).size == expected
    (tmp_path / name).write_bytes(b"no")
    with pytest.raises(VaexError, match=f"{name} cannot be read as an image"):
        image_size(tmp_path / name)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_a_program_with_the_name_of_a_picture_is_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript is a language: Pillow hands it to Ghostscript, whatever the file is called."""
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%touch witness) (w) file\n%%EOF\n"
    (tmp_path / name).write_text(text)
    with Image.open(tmp_path / name) as opened:
        assert opened.format == "EPS"  # the control: Pillow alone would take it
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    for read in (lambda path: read_image(path, (1, 8, 8)), lambda path: read_mask(path, (8, 8)), image_size):
        with pytest.raises(VaexError, match="cannot be read as an image"):
            read(tmp_path / name)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A PNG of 30000 x 30000 grey pixels takes some hundred bytes as a header and 0.9 GB unpacked."""
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(VaexError, match=r"x\.png .*decompression bomb.* Nor can it be read in tiles: cut it into"):
        read_image(tmp_path / "x.png", (1, 8, 8))


def test_a_tiff_of_several_pages_is_refused_and_one_with_a_preview_read(tmp_path: Path) -> None:
    pages = [Image.fromarray(GENERATOR.integers(0, 256, (16, 16), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "many.tif", save_all=True, append_images=pages[1:])
    for read in (read_image, read_pixels):
        with pytest.raises(VaexError, match=r"many\.tif cannot be read .*it holds several pages"):
            read(tmp_path / "many.tif", (1, 16, 16))
    with pytest.raises(VaexError, match=r"The mask .*many\.tif cannot be read .*it holds several pages"):
        read_mask(tmp_path / "many.tif", (16, 16))
    preview = pages[1].resize((4, 4))
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "preview.tif", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "preview.tif") as image:
        assert len(list(ImageSequence.Iterator(image))) == 2
    np.testing.assert_array_equal(read_pixels(tmp_path / "preview.tif", (1, 16, 16))[0], np.asarray(pages[0]))


def test_a_link_that_leads_nowhere_is_listed_and_not_read(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", np.zeros((8, 8), dtype=np.uint8))
    (tmp_path / "b.png").symlink_to("gone.png")
    (tmp_path / "c.png").symlink_to(".")  # a folder
    assert [file.name for file in image_files(tmp_path)] == ["a.png", "b.png"]
    with pytest.raises(VaexError, match=r"b\.png cannot be read as an image"):
        read_image(tmp_path / "b.png", (1, 8, 8))
