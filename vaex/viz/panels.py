"""Pictures of one image for a page that is narrower than a figure of all maps: rows of a few columns, one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vaex.errors import VaexError
from vaex.viz.grid import SCORE_COLOURS, compose
from vaex.viz.overlays import OPACITY, Array, Pixels, check_map, overlay, scale_of
from vaex.viz.tiles import fit, framed, in_blocks, resize, to_tiles

CELL = 200  # pixels of a cell's longer side
LARGE = 400  # of one that shows a large image
COLUMNS = 4


def maps_panel(
    images: Array,
    maps: Array,
    *,
    titles: Sequence[str],
    rows: Sequence[str],
    opacity: float = OPACITY,
    columns: int = COLUMNS,
    label: str = "attention",
) -> Figure:
    """Draw the maps of the same latents for versions of one image, version below version, ``columns`` side by side.

    ``images`` (N, C, H, W) float in [0, 1], clipped, and their ``maps`` (N, T, H, W), signed where one is negative.
    All share one colour scale, whose bar is named ``label``. ``titles`` (T) stand above, ``rows`` (N) before.
    ``opacity`` is that of `vaex.viz.overlay`.

    Raises:
        VaexError: shapes do not fit each other, or a value is not finite.
    """
    tiles, maps = to_tiles(np.asarray(images), "images"), np.asarray(maps)
    count, size = len(tiles), (int(tiles.shape[1]), int(tiles.shape[2]))
    if maps.shape != (count, len(titles), *size) or len(rows) != count or not len(titles):
        raise VaexError(
            f"A panel of {count} images of {size} pixels with {len(titles)} titles and {len(rows)} rows needs maps "
            f"{(count, len(titles), *size)}, got {maps.shape}."
        )
    signed = bool(maps.min() < 0)
    check_map(maps, signed)
    top, cell, grey = scale_of(maps, None), fit(size, CELL), tiles.astype(np.float64) / 255
    cells, tops, sides = [], [], []
    for start in range(0, len(titles), columns):
        part = range(start, min(start + columns, len(titles)))
        for n in range(count):
            drawn = [overlay(grey[n], maps[n, t], vmax=top, opacity=opacity, signed=signed) for t in part]
            cells.append([resize(tile, cell) for tile in drawn])
            tops.append([titles[t] if n == 0 else "" for t in part])
            sides.append(rows[n])
    note = "Colour over the grey image: attention, on one scale for all maps of this picture."
    return compose(cells, cell, tops, sides, [(label, top, None, signed)], note, opacity)


def images_panel(
    pictures: Sequence[tuple[str, Array]],
    score_maps: Sequence[tuple[str, Array, Array]],
    *,
    opacity: float = OPACITY,
    label: str = "score",
    vmax: float | None = None,
) -> Figure:
    """Draw ``pictures``, (title, image (C, H, W) in [0, 1]) each, then ``score_maps``, (title, image, map (H, W)).

    The score maps share one colour scale that begins at 0, whose bar is named ``label``; what is below 0 is 0.
    ``vmax`` is the value of full colour, None for their maximum.

    Raises:
        VaexError: shapes do not fit each other, or a value is not finite.
    """
    images = [image for _, image in pictures] + [image for _, image, _ in score_maps]
    if not score_maps or len({np.asarray(image).shape for image in images}) > 1:
        raise VaexError("A panel needs at least one score map, and images of one shape.")
    tiles = to_tiles(np.stack(images), "images")
    maps = np.stack([np.asarray(one) for _, _, one in score_maps]).clip(min=0)
    check_map(maps, signed=False)
    top, cell = scale_of(maps, vmax), fit((int(tiles.shape[1]), int(tiles.shape[2])), CELL)
    drawn = [resize(tile, cell) for tile in tiles[: len(pictures)]]
    for tile, one in zip(tiles[len(pictures) :], maps, strict=True):
        over = overlay(tile.astype(np.float64) / 255, one, vmax=top, opacity=opacity, colormap=SCORE_COLOURS)
        drawn.append(resize(over, cell))
    titles = [title for title, _ in pictures] + [title for title, _, _ in score_maps]
    own = "a scale of its own" if vmax is None else "the scale of the whole image"
    note = f"Colour over the grey image: score map, on {own}."
    return compose([drawn], cell, [titles], [""], [(label, top, SCORE_COLOURS, False)], note, opacity)


def large_small(picture: Pixels, score_map: Array) -> tuple[Pixels, Array]:
    """Return a picture (H, W, 3) and its map (H, W) no larger than `tile_panel` draws them; the map keeps its peaks."""
    size = fit((int(score_map.shape[0]), int(score_map.shape[1])), LARGE)
    if size[0] >= score_map.shape[0]:
        return picture, score_map
    return resize(picture, size), in_blocks(score_map, size, np.maximum)


def tile_panel(
    picture: Pixels,
    score_map: Array,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    *,
    opacity: float = OPACITY,
    label: str = "score",
    vmax: float | None = None,
) -> Figure:
    """Draw a large image, and beside it its score map over it, both with an outline of one of its tiles.

    ``picture`` (H, W, 3) in 0..255 and ``score_map`` (H, W), what is below 0 being 0, may be smaller than the image's
    own ``size`` (width, height), in whose pixels the tile's ``box`` (x0, y0, x1, y1) is. ``vmax`` is the value of full
    colour, None for the map's own maximum.

    Raises:
        VaexError: shapes do not fit each other, or a value is not finite.
    """
    values = np.asarray(score_map).clip(min=0)
    check_map(values, signed=False)
    top = scale_of(values, vmax)
    picture, values = large_small(picture, values)
    over = overlay(picture / 255, values, vmax=top, opacity=opacity, colormap=SCORE_COLOURS)
    cell = fit((int(values.shape[0]), int(values.shape[1])), LARGE)
    across, down = cell[1] / size[0], cell[0] / size[1]
    place = (int(box[0] * across), int(box[1] * down), round(box[2] * across), round(box[3] * down))
    drawn = [framed(resize(one, cell), place) for one in (picture, over)]
    note = "Colour over the grey image: score map, put together from those of all tiles. The outline is the tile below."
    bars: list[tuple[str, float, str | None, bool]] = [(label, top, SCORE_COLOURS, False)]
    return compose([drawn], cell, [["whole image", "score map"]], [""], bars, note, opacity)
