"""Image files of any size and kind, read as what a model takes."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vaex.data.headers import shown_size
from vaex.data.masks import marked_pixels, resized_mask, wide
from vaex.errors import VaexError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"})
"""File names that are taken for images; others in a folder are left alone."""

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")
"""What a file may hold, whatever its name says: Pillow would start Ghostscript for PostScript, and knows forty more."""

_LOSSY = ("JPEG", "MPO")
_SUBFILE = 254  # tag of a page of a TIFF that says what it is of others
_COPY_OR_MASK = 0b101  # its bits for a smaller copy and for a mask of transparency
_BOMB = Image.DecompressionBombError


def images_in(folder: Path, deep: bool = False) -> list[Path]:
    """Return the images in a folder, or with ``deep`` also below it, in order of name; hidden ones are left out.

    Links to folders below it are not followed; links that lead nowhere count, so that reading them tells it. A folder
    that is not there holds none.
    """
    if not folder.is_dir():
        return []
    return [
        file
        for file in sorted(folder.rglob("*") if deep else folder.iterdir())
        if file.suffix.lower() in SUFFIXES
        and (file.is_file() or (file.is_symlink() and not file.exists()))
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def find_mask(folder: Path, stem: str, beside: bool = False) -> Path | None:
    """Return the image in ``folder`` named ``stem`` + "_mask" or ``stem``, of any suffix, or None.

    With ``beside``, where masks lie among their images, only the former. A letter with an accent is the same letter
    in one character and in two, as some systems write it.
    """
    names = (f"{stem}_mask", stem)[: 1 if beside else 2]
    suffixes = (".png", *sorted(SUFFIXES - {".png"}))
    for name in names:
        for suffix in suffixes:
            for written in (suffix, suffix.upper()):
                if (file := folder / f"{name}{written}").is_file():
                    return file
    # Only now is the folder searched, for .Png and the like: that takes its time where it holds many files
    names = tuple(map(composed, names))
    found = {(composed(file.stem), file.suffix.lower()): file for file in images_in(folder)}
    return next((found[name, suffix] for name in names for suffix in suffixes if (name, suffix) in found), None)


def composed(name: str) -> str:
    """Return a name in which every letter that has one is one character."""
    return unicodedata.normalize("NFC", name)


def image_files(path: str | Path) -> list[Path]:
    """Return ``path`` itself, or the images below a folder in order of name; hidden files are left out.

    Raises:
        VaexError: when there is nothing at ``path``, or no image in the folder.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise VaexError(f"No image or folder at {path}; check images=.")
    found = images_in(path, deep=True)
    if not found:
        raise VaexError(f"Folder {path} holds no images ({', '.join(sorted(SUFFIXES))}); check images=.")
    return found


def checked_white(white: Any) -> float | None:
    """Return ``data.white``, checked.

    Raises:
        VaexError: when it is neither None nor a finite number above 0.
    """
    if white is None:
        return None
    if isinstance(white, bool) or not isinstance(white, int | float) or not 0 < white < math.inf:
        raise VaexError(f"data.white must be the value that is white, a number above 0, or null, got {white!r}.")
    return float(white)


def read_image(path: Path, shape: tuple[int, int, int], white: float | None = None) -> NDArray[np.float32]:
    """Return an image file as (C, H, W) float32 in [0, 1], grey or RGB and resized to ``shape``.

    An image of other proportions is stretched to the model's, not cropped. EXIF orientation is applied, and what is
    transparent is laid on black, the background of the sprites and of MNIST. Greys wider than 8 bits run from 0 to
    ``white``, which for None is 65535, or 1 in files of floating-point numbers; what lies outside is black or white.

    Raises:
        VaexError: when the file cannot be read as an image; when it holds several pages (of TIFF; smaller copies of one
            do not count), values that are not finite, or with ``white`` None brighter ones than white.
    """
    planes = _planes(path, shape, white)
    pixels: NDArray[np.float32] = planes.astype(np.float32, copy=False)
    return pixels / np.float32(255) if planes.dtype == np.uint8 else pixels


def _planes(path: Path, shape: tuple[int, int, int], white: float | None) -> NDArray[Any]:
    """Return an image (C, H, W) in the 8 bits that it has, or as float32 in [0, 1] where it has more.

    Of 8 bits no float is made: large images would take four times the memory, and several are read at once.
    """
    channels, height, width = shape
    try:
        with Image.open(path, formats=FORMATS) as opened:
            _check_pages(opened)
            image = ImageOps.exif_transpose(opened)
            if wide(image):
                white = None if opened.format == "PPM" else white  # it says itself what is white, and Pillow heeds it
                grey = np.clip(_wide_grey(image, width, height, white), 0.0, 1.0)
                return np.repeat(grey[None], channels, axis=0)
            flat = _on_black(image).convert("L" if channels == 1 else "RGB")
            pixels = np.array(_resized(flat, (height, width)))
            return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    except Exception as error:  # Pillow raises anything on a damaged file
        raise VaexError(f"{path} cannot be read as an image ({_reason(error)}).") from error


def resized_pixels(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return pixels (C, H, W), grey or RGB, at ``shape`` (h, w), as `read_pixels` gives them from a file."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    found: NDArray[np.uint8] = np.array(_resized(image, shape))  # a copy, which may be written to
    return found[None] if len(pixels) == 1 else np.ascontiguousarray(found.transpose(2, 0, 1))


def _resized(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    height, width = shape
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _reason(error: Exception) -> str:
    """Return in words why a file was not read."""
    if isinstance(error, _BOMB):
        return f"{error} Nor can it be read in tiles: cut it into smaller files"
    return str(error) or type(error).__name__  # a MemoryError says nothing


def _check_pages(image: Image.Image) -> None:
    """Refuse a TIFF of more pages than one: the others would count as looked at."""
    pages = 0
    for number in range(getattr(image, "n_frames", 1) if image.format == "TIFF" else 1):
        image.seek(number)
        tags: Any = getattr(image, "tag_v2", {})
        pages += not tags.get(_SUBFILE, 0) & _COPY_OR_MASK
        if pages > 1:
            raise ValueError("it holds several pages, of which one would be looked at; save each as a file")
    image.seek(0)


def _wide_grey(image: Image.Image, width: int, height: int, white: float | None) -> NDArray[np.float32]:
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    top = white or (1.0 if image.mode == "F" else 65535.0)
    brightest = float(values.max(initial=0.0))
    if white is None and brightest > top:
        raise ValueError(f"its brightest value is {brightest:g}, but {top:g} would be white; set data.white")
    grey = Image.fromarray(np.clip(values / np.float32(top), 0, 1))
    return np.asarray(_resized(grey, (height, width)), dtype=np.float32)


def _on_black(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)


class Mask(NamedTuple):
    """A mask as read, and what was met on the way."""

    pixels: NDArray[np.uint8]  # (1, H, W), 1 where the defect is
    resized: bool  # its file has another size than the image
    empty: bool  # nothing is marked


def read_pixels(path: Path, shape: tuple[int, int, int], white: float | None = None) -> NDArray[np.uint8]:
    """Return an image file as (C, H, W) uint8: what `read_image` gives, times 255 and rounded.

    Raises:
        VaexError: as `read_image`.
    """
    planes = _planes(path, shape, white)
    return planes if planes.dtype == np.uint8 else np.rint(planes * np.float32(255)).astype(np.uint8)


def read_mask(path: Path, size: tuple[int, int], image: Path | None = None) -> Mask:
    """Return a mask file as (1, H, W) uint8 of 0 and 1, resized to ``size`` (H, W) by area.

    Marked is what `marked_pixels` says. A pixel of the result is 1 when more than half of it is marked; a mask so fine
    that nothing would be left keeps the pixels that it covers most. A mask must have the proportions of its ``image``,
    both as EXIF turns them.

    Raises:
        VaexError: when a file cannot be read, or has other proportions than ``image``.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            _check_pages(opened)
            turned = ImageOps.exif_transpose(opened)
            flat = turned if wide(turned) else _on_black(turned)
            marked = marked_pixels(turned, flat, opened.format in _LOSSY)
    except Exception as error:
        raise VaexError(f"The mask {path} cannot be read as an image ({_reason(error)}).") from error
    own = turned.size
    drawn = own if image is None else image_size(image)
    if abs(own[0] * drawn[1] - own[1] * drawn[0]) > max(*own, *drawn):  # about one pixel of rounding
        raise VaexError(
            f"The mask {path} is {own[0]}x{own[1]} pixels, but its image {image} is {drawn[0]}x{drawn[1]}; "
            "give a mask of the image's size."
        )
    return Mask(resized_mask(marked[None], size), own != drawn, not marked.any())


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image file as EXIF turns it, from its header alone.

    Raises:
        VaexError: when the file cannot be read as an image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return shown_size(image, path)
    except Exception as error:
        raise VaexError(f"{path} cannot be read as an image ({_reason(error)}).") from error
