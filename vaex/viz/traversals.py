"""What each latent does to the picture: its traversal as a row, beside where the encoder looks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vaex.errors import VaexError
from vaex.viz.grid import compose
from vaex.viz.overlays import Array, Pixels, check_map, overlay, scale_of
from vaex.viz.tiles import fit, image_grid, resize, to_tiles


def traversal_figure(
    decoded: Array,
    *,
    values: Sequence[float],
    titles: Sequence[str],
    image: Array,
    maps: Array | None = None,
) -> Figure:
    """Draw one row per latent: the image, its map of that latent over it, and the decoded images of the traversal.

    ``decoded`` (T, V, C, H, W) in [0, 1], clipped, are what is decoded as latent T takes each of the ``values`` (V of
    them, written above the columns). ``titles`` (T) stand before the rows, such as "z3  KL 2.1 nats". ``image``
    (C, H, W) is the one whose code is moved; ``maps`` (T, H, W) share one colour scale, and None leaves them out.

    Raises:
        VaexError: shapes do not fit each other, or a value is not finite.
    """
    decoded, image = _checked(decoded), np.asarray(image)
    rows, count = decoded.shape[:2]
    expected = {"values": (len(values), count), "titles": (len(titles), rows)}
    expected["image"] = (image.shape, decoded.shape[2:])  # type: ignore[assignment]
    if maps is not None:
        maps = np.asarray(maps)
        expected["maps"] = (maps.shape, (rows, *decoded.shape[3:]))  # type: ignore[assignment]
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise VaexError(f"The {name} of a traversal must have {wanted} to fit the decoded images, got {found}.")

    original = to_tiles(image[None], "image")[0]
    heads = ["image"]
    bars: list[tuple[str, float, str | None, bool]] = []
    signed = False
    if maps is not None:
        signed = bool(maps.min() < 0)
        check_map(maps, signed)
        heads.append("attention")
        bars.append(("attention", scale_of(maps, None), None, signed))
    width = len(heads) + count
    cell = fit((image.shape[1], image.shape[2]), int(np.clip(min(2000 / width, 2600 / rows), 64, 160)))
    cells = []
    for n in range(rows):
        row = [original]
        if maps is not None:
            row.append(overlay(original.astype(np.float64) / 255, maps[n], vmax=bars[0][1], signed=signed))
        cells.append([resize(tile, cell) for tile in (*row, *to_tiles(decoded[n], "decoded images"))])
    tops = [[*heads, *(f"{round(value, 1) + 0.0:.1f}" for value in values)], *([""] * width for _ in range(rows - 1))]
    note = "Each row: the code of the image, with one latent set to the value above, decoded."
    note += " Colour over the grey image: attention of that latent, on one scale." if maps is not None else ""
    return compose(cells, cell, tops, list(titles), bars, note)


def traversal_frames(decoded: Array, *, columns: int | None = None, back: bool = True) -> Pixels:
    """Return the frames of a moving traversal, (N, h, w, 3) uint8: a tile per latent, all moved at once.

    ``decoded`` (T, V, C, H, W) in [0, 1]; a frame per value, and with ``back`` the way back too, so that it can repeat
    without a jump: N = V, or 2 V - 2. ``columns`` of tiles as in `image_grid`.

    Raises:
        VaexError: a wrong shape.
    """
    decoded = _checked(decoded)
    frames = [image_grid(decoded[:, n], columns) for n in range(decoded.shape[1])]
    return np.stack([*frames, *frames[-2:0:-1]] if back else frames)


def _checked(decoded: Array) -> Array:
    decoded = np.asarray(decoded)
    if decoded.ndim != 5 or decoded.size == 0:
        raise VaexError(f"A traversal must be (T, V, C, H, W) with at least one image, got {decoded.shape}.")
    return decoded
