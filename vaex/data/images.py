"""Image files of any size and kind, read as what a model takes."""

from __future__ import annotations

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

    EXIF orientation is applied, 16-bit greys keep their range, transparency is dropped.

    Raises:
        VaexError: when the file cannot be read as an image.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":  # wider than 8 bits
                values = np.asarray(image, dtype=np.float32)
                top = 65535.0 if image.mode.startswith("I") else max(float(values.max(initial=0.0)), 1.0)
                grey = Image.fromarray(values / top, mode=None)
                pixels = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
                planes = np.repeat(pixels[None], channels, axis=0)
            else:
                flat = image.convert("L" if channels == 1 else "RGB")
                resized = (
                    flat if flat.size == (width, height) else flat.resize((width, height), Image.Resampling.LANCZOS)
                )
                pixels = np.asarray(resized, dtype=np.float32) / np.float32(255)
                planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VaexError(f"{path} cannot be read as an image ({error}).") from error
    return np.clip(planes, 0.0, 1.0)
