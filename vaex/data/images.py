"""Image files of any size and kind, read as what a model takes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vaex.errors import VaexError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"})
"""File names that are taken for images; others in a folder are left alone."""


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
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise VaexError(f"Folder {path} holds no images ({', '.join(sorted(SUFFIXES))}); check images=.")
    return found


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return an image file as (C, H, W) float32 in [0, 1], grey or RGB and resized to ``shape``.

    An image of other proportions is stretched to the model's, not cropped. EXIF orientation is applied, 16-bit greys
    keep their range, and what is transparent is laid on black, the background of the sprites and of MNIST.

    Raises:
        VaexError: when the file cannot be read as an image, or holds values that are not finite.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":  # wider than 8 bits
                planes = np.repeat(_wide_grey(image, width, height)[None], channels, axis=0)
            else:
                flat = _on_black(image).convert("L" if channels == 1 else "RGB")
                resized = (
                    flat if flat.size == (width, height) else flat.resize((width, height), Image.Resampling.LANCZOS)
                )
                pixels = np.asarray(resized, dtype=np.float32) / np.float32(255)
                planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise VaexError(f"{path} cannot be read as an image ({error}).") from error
    return np.clip(planes, 0.0, 1.0)


def _wide_grey(image: Image.Image, width: int, height: int) -> NDArray[np.float32]:
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    top = 65535.0 if image.mode.startswith("I") else max(float(values.max(initial=0.0)), 1.0)
    grey = Image.fromarray(values / np.float32(top))
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)


def _on_black(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
