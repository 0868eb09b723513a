"""The size of a picture as it is shown, without its pixels, against Pillow's turning of the decoded one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from vaex.data.images import image_size


def png(file: Path, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.effect_noise((30, 20), 50).save(file, exif=exif)


def with_exif_behind_pixels(file: Path) -> None:
    """Move the chunk eXIf behind the last IDAT, where it may stand, too."""
    content, place, chunks = file.read_bytes(), 8, []
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        chunks.append(content[place:end])
        place = end
    told = [chunk for chunk in chunks if chunk[4:8] == b"eXIf"]
    assert told
    others = [chunk for chunk in chunks if chunk not in told]
    file.write_bytes(content[:8] + b"".join([*others[:-1], *told, others[-1]]))


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_a_png_is_not_decoded_for_its_size(
    orientation: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.png"
    png(file, orientation)
    with Image.open(file) as shown:
        expected = ImageOps.exif_transpose(shown).size
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *_: pytest.fail("it was decoded"))
    assert image_size(file) == expected


@pytest.mark.parametrize("orientation", [1, 6])
def test_what_a_png_says_behind_its_pixels_counts(orientation: int, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    png(file, orientation)
    with_exif_behind_pixels(file)
    with Image.open(file) as shown:
        assert "exif" not in shown.info
        expected = ImageOps.exif_transpose(shown).size
    assert image_size(file) == expected == ((20, 30) if orientation == 6 else (30, 20))


def test_a_png_that_was_cut_short_has_its_size(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    png(file, None)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert image_size(file) == (30, 20)  # reading it tells that
