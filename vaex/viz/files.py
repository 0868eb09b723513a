"""Pictures to files, whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vaex.errors import VaexError
from vaex.viz.overlays import Array, Pixels, to_uint8

REASONS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def figure_to_array(figure: Figure) -> Pixels:
    """Return the drawn figure as (H, W, 3) uint8, at its own size and dpi."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()  # a copy: the buffer dies with the canvas


def save_png(picture: Figure | Array | Pixels, path: str | os.PathLike[str]) -> Path:
    """Write a figure, or an array (H, W), (H, W, 1) or (H, W, 3) of uint8 or of float in [0, 1], and return its path.

    Folders are made as needed. The file appears whole or not at all: it is written under another name beside it, then
    renamed over what was there.

    Raises:
        VaexError: the array is no picture, the name does not end in .png, or the file cannot be written (disk full,
            no permission, a file in the place of a folder).
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise VaexError(f"Pictures are written as PNG, so '{target}' must end in .png: rename it.")
    image = Image.fromarray(_pixels(picture))
    return _written(target, lambda file: image.save(file, format="PNG", compress_level=3))


def save_gif(frames: Pixels, path: str | os.PathLike[str], seconds: float = 0.1) -> Path:
    """Write pictures (N, H, W, 3) uint8 as a GIF that repeats for ever, ``seconds`` each, and return its path.

    All frames share one palette, so that nothing flickers; whole or not at all, as `save_png`.

    Raises:
        VaexError: no frames, a name that does not end in .gif, a frame of no time, or a file that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".gif":
        raise VaexError(f"Moving pictures are written as GIF, so '{target}' must end in .gif: rename it.")
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0 or frames.dtype != np.uint8 or not seconds > 0:
        raise VaexError(
            "A GIF needs frames (N, H, W, 3) of uint8 and more than 0 seconds for each, got "
            f"{frames.dtype} {frames.shape} and {seconds}."
        )
    palette = Image.fromarray(np.concatenate(list(frames), axis=0)).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = max(20, round(1000 * seconds))  # browsers slow down what is faster

    def write(file: IO[bytes]) -> None:
        images[0].save(
            file, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0, optimize=False
        )

    return _written(target, write)


def _written(target: Path, write: Callable[[IO[bytes]], None]) -> Path:
    unfinished = target.with_name(f".{target.stem[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                write(file)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        reason = REASONS.get(error.errno or 0, f"{error.strerror or error}: check the folder")
        raise VaexError(f"Picture '{target}' could not be written, {reason}.") from error
    return target


def _pixels(picture: Figure | Array | Pixels) -> NDArray[np.uint8]:
    """Return uint8, (H, W) or (H, W, 3)."""
    if isinstance(picture, Figure):
        return figure_to_array(picture)
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.size == 0:
        raise VaexError(f"A picture must be (H, W), (H, W, 1) or (H, W, 3), got {array.shape}: put channels last.")
    return np.ascontiguousarray(array if array.dtype == np.uint8 else to_uint8(array))
