"""What an image file says of itself beside its pixels, which are not decoded for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

_ORIENTATION = 0x0112
_TOLD = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG in which an orientation may stand."""


def shown_size(image: Image.Image, path: Path) -> tuple[int, int]:
    """Return (width, height) of an opened image as EXIF turns it; ``path`` is that of its file."""
    turned = _exif(image, path).get(_ORIENTATION, 1) in (5, 6, 7, 8)
    # of a TIFF the size is that of the turned image in some versions of Pillow, and of the stored one in others
    width, height = _stored_size(image) if image.format == "TIFF" else image.size
    return (height, width) if turned else (width, height)


def _stored_size(image: Any) -> tuple[int, int]:
    return int(image.tag_v2[256]), int(image.tag_v2[257])  # ImageWidth, ImageLength


def _exif(image: Image.Image, path: Path) -> Image.Exif:
    if image.format != "PNG" or "exif" in image.info or _told_behind_pixels(path):
        return image.getexif()
    return Image.Image.getexif(image)  # that of a PNG decodes all pixels, to come to what may stand behind them


def _told_behind_pixels(path: Path) -> bool:
    """Return whether a PNG has chunks behind its pixels in which an orientation may stand."""
    with path.open("rb", buffering=0) as file:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            pixels |= head[4:] == b"IDAT"
            if pixels and head[4:] in _TOLD:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)  # its content and checksum
    return False
