"""Pixels and masks of records, whole or in tiles: each file is decoded once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaex.data.cache import gather_pixels
from vaex.data.images import Mask, image_size, read_mask, read_pixels
from vaex.data.masks import resized_mask
from vaex.data.records import GOOD, Gallery, Record, group_names
from vaex.data.tiling import Tile, cut, tile_pixels, tiles_of
from vaex.errors import VaexError

_READING = 2  # version of the pixels and masks that the same file gives, part of the names of cached ones

_log = logging.getLogger(__name__)

Parts = Sequence[Sequence[Tile]]


def check_tiled(records: Sequence[Record]) -> None:
    """Check that of every anomalous image it is known where.

    Raises:
        VaexError: when one has no mask.
    """
    for record in records:
        if record.label and record.mask is None:
            raise VaexError(
                f"{record.path} is anomalous and has no mask, so which of its tiles (data.tile) are anomalous is not "
                "known; give masks (data.mask_dir, or the column mask), or leave anomalous images out of the data and "
                "look at them with `vaex explain`."
            )


def make_gallery(
    records: Sequence[Record],
    shape: tuple[int, int, int],
    white: float | None = None,
    folder: Path | None = None,
    tile: int | None = None,
    overlap: int = 0,
) -> Gallery:
    """Return the pixels of ``records`` at ``shape`` (C, H, W), kept in memory or in ``folder``.

    With ``tile`` and ``overlap`` there is a record for each tile of each image, labelled by its part of the mask.

    Raises:
        VaexError: when a file cannot be read, the mask of a normal image marks something, or in tiles that of an
            anomalous one nothing.
    """
    channels, height, width = shape
    size = (height, width)
    parts = None if tile is None else [tiles_of(*image_size(r.path)[::-1], tile, overlap) for r in records]
    counts = [1] * len(records) if parts is None else [len(tiles) for tiles in parts]
    masked = [(row, record.mask) for row, record in enumerate(records) if record.mask is not None]
    told: list[tuple[Record, Mask]] = []

    def image(row: int) -> NDArray[np.uint8]:
        if parts is None:
            return read_pixels(records[row].path, shape, white)
        pixels = read_pixels(records[row].path, (channels, *_size(parts[row])), white)
        return np.stack([tile_pixels(pixels, part, size) for part in parts[row]])  # (tiles, C, H, W)

    def mask(place: int) -> NDArray[np.uint8]:
        row, file = masked[place]
        found = read_mask(file, size if parts is None else _size(parts[row]), records[row].path)
        told.append((records[row], found))
        if parts is None:
            return found.pixels
        return np.stack([resized_mask(cut(found.pixels, part), size) for part in parts[row]])  # (tiles, 1, H, W)

    kind = "" if tile is None else f"_tile{tile}_overlap{overlap}"
    name = f"images{_READING}{kind}" if white is None else f"images{_READING}{kind}_white{white:g}"
    sources = [record.path for record in records]
    images = gather_pixels((sum(counts), *shape), image, sources, folder, name, counts)
    sources = [path for row, file in masked for path in (file, records[row].path)]
    many = [counts[row] for row, _ in masked]
    marked = gather_pixels((sum(many), 1, *size), mask, sources, folder, f"masks{_READING}{kind}", many)
    shows = [bool(marked[row].any()) for row in range(sum(many))]  # those of the cache too: a label may have changed
    stops = np.cumsum(many)
    for (row, file), count, stop in zip(masked, many, stops, strict=True):
        _check_marked(records[row], file, any(shows[stop - count : stop]), tile)
    _tell(told)
    found = records if parts is None else _in_tiles(records, parts, shows)
    return Gallery(tuple(found), images, marked, group_names(records))


def _size(parts: Sequence[Tile]) -> tuple[int, int]:
    """Return (height, width) of the image that ``parts`` cover."""
    return parts[-1].bottom, parts[-1].right


def _check_marked(record: Record, file: Path, marks: bool, tile: int | None) -> None:
    if not record.label and marks:
        raise VaexError(
            f"{record.listed}: {record.path} has the label 0 (normal), but its mask {file} marks a defect; "
            "correct the label, or leave the mask out."
        )
    if record.label and not marks and tile is not None:
        raise VaexError(
            f"{record.path} is anomalous and its mask {file} marks nothing, so which of its tiles (data.tile) are "
            "anomalous is not known; draw the defect, or leave the image out."
        )


def _in_tiles(records: Sequence[Record], parts: Parts, shows: Sequence[bool]) -> list[Record]:
    """Return a record for each tile; ``shows`` says which tiles of images with a mask show something."""
    left = iter(shows)
    found = []
    for record, tiles in zip(records, parts, strict=True):
        for part in tiles:
            label = int(record.mask is not None and next(left))
            found.append(record._replace(label=label, group=record.group if label else GOOD, tile=part))
    return found


def _tell(masks: list[tuple[Record, Mask]]) -> None:
    """Warn once about each thing that was put right."""
    for what, files in (
        ("has another size than its image and was resized", [r.mask for r, mask in masks if mask.resized]),
        ("is empty although its image is labelled anomalous", [r.mask for r, m in masks if m.empty and r.label]),
    ):
        if files:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            _log.warning("The mask %s%s %s.", files[0], more, what)
