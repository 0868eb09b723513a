"""dSprites, all 737,280 images: from the original file, downloaded, or drawn; kept as bits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vaex.data.arrays import stored_arrays
from vaex.data.download import fetch_file, file_digest
from vaex.data.factors import FactorGrid
from vaex.data.packed import PackedSet, pack_images
from vaex.data.sprites import SpriteSet, sprite_grid
from vaex.data.stored import StoredGrid, with_progress
from vaex.errors import VaexError, unknown

SIDE = 64
GRID = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""Factors of dSprites in the order of its file, the last varying fastest; its colour, always white, is left out."""

SOURCES = ("file", "download", "render")

FILES = ("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz", "dsprites_ndarray_co1sh3sc6or40x32x32_64x64.npz")
"""Names of the original file: as published, and as often quoted."""

_REPOSITORY = "google-deepmind/dsprites-dataset"
URLS = (
    f"https://github.com/{_REPOSITORY}/raw/master/{FILES[0]}",
    f"https://raw.githubusercontent.com/{_REPOSITORY}/master/{FILES[0]}",
    f"https://github.com/{_REPOSITORY}/raw/fa310c66517cfc1939d77fe17c725154efc97127/{FILES[0]}",
)
MD5 = "7da33b31b13a06f4b04a70402ce90c2e"
"""Addresses and digest of the published file, 26 MB.

Source: digest from ten public repositories that agree, among them neurospin/pynet and the data sets of vaetc and latte;
    no SHA-256 of this file was found published. Not fetched by vaex's tests.
"""

_DRAWING = 1  # version of what `render` draws
_BLOCK = 4096  # images drawn at a time
_log = logging.getLogger(__name__)


class DSprites(StoredGrid):
    """All images of dSprites: 64 x 64 pixels of 0 and 1 on a grid of shape, scale, orientation, x and y.

    ```python
    data = vaex.data.DSprites("data")  # data/dsprites/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz, or drawn
    data.prepare_data()
    data.setup()
    batch = data.grid_set.__getitems__([0, 737279])  # image, mask, factors, index
    ```

    Images are kept as bits, 0.38 GB, and unpacked a batch at a time. ``mask`` of a batch is its ``image``, the same
    tensor: what is white is the sprite. The constant colour is no factor here.

    Args:
        root: folder that ``dsprites`` lies in; ``${paths.data}`` in the configuration.
        source: ``file``, one of `FILES`; ``download``, fetching it where it is not there; ``render``, drawing the
            images; None: the file where it is there, else drawing.
        urls: addresses of the file, tried in turn, or a single one; None: `URLS`.
        sha256: its digest; None: that of the published file, `MD5`.
        train: images to train on; None: all that are not held out. ``val`` and ``test`` are held out by ``seed``.
        cache: where the bits are between batches: ``disk``, memory-mapped and found again by the next run; ``memory``;
            ``device``, as ``disk`` and copied to the device that trains, where they are unpacked.
        cache_dir: folder of the bits on disk; None: ``.vaex_cache`` in ``root/dsprites``, and the memory where that
            folder cannot be written.
        batch_size: images per training step. The remaining arguments are those of `ImageDataModule`.

    Raises:
        VaexError: when a setting is out of range, the file is missing and cannot be fetched, truncated, or does not
            hold dSprites, or the cache cannot be written.

    Source: L. Matthey, I. Higgins, D. Hassabis, A. Lerchner, "dSprites: Disentanglement testing Sprites dataset", 2017.
    Differs: rendered images may differ from the original's in a few of 3.0 billion pixels, see `draw_sprites`.
    """

    row, places = (SIDE * SIDE // 8,), ("disk", "memory", "device")
    grid_set: PackedSet
    train_set: PackedSet
    val_set: PackedSet
    test_set: PackedSet

    def __init__(
        self,
        root: str = "data",
        source: str | None = None,
        urls: Sequence[str] | None = None,
        sha256: str | None = None,
        train: int | None = None,
        val: int = 2048,
        test: int = 2048,
        cache: str = "disk",
        cache_dir: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        if source is not None and source not in SOURCES:
            raise unknown("data.source", source, SOURCES)
        if urls is not None and sha256 is None:
            raise VaexError("data.urls needs data.sha256, the digest of the file that they give.")
        if cache == "device" and (num_workers or pin_memory):
            raise VaexError("data.cache=device needs data.num_workers=0 and no pinned memory: the device unpacks.")
        super().__init__(
            sprite_grid(GRID),
            (1, SIDE, SIDE),
            Path(root) / "dsprites",
            cache,
            cache_dir,
            train=train,
            val=val,
            test=test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=drop_last,
            seed=seed,
        )
        addresses = [urls] if isinstance(urls, str) else urls
        self.source, self.urls, self.sha256 = source, tuple(addresses or URLS), sha256
        self._checksum = ""

    @property
    def label(self) -> str:  # type: ignore[override] # depends on the source
        """First part of the name of the bits on disk."""
        return "dsprites" if self.file else f"dsprites_drawn_v{_DRAWING}"

    @property
    def file(self) -> Path | None:
        """The original file; None where images are drawn.

        Raises:
            VaexError: when it is not there, and drawing was not asked for.
        """
        found = None if self.source == "render" else self._found()
        if found is None and self.source in ("file", "download"):
            raise VaexError(
                f"There is no {FILES[0]} (nor {FILES[1]}) in {self.folder}; put it there, set paths.data or "
                "VAEX_DATA, or use data.source=download (26 MB) or data.source=render, which needs no file."
            )
        return found

    def _found(self) -> Path | None:
        return next((path for name in FILES if (path := self.folder / name).is_file()), None)

    @property
    def checksum(self) -> str:
        """SHA-256 of the bits of all images and of the splits: the same for a file and for drawing equal images."""
        if not self._checksum:
            bits, digest = self.rows(), hashlib.sha256()
            for start in range(0, len(self.full_grid), 1 << 15):
                digest.update(bits[start : start + (1 << 15)].tobytes())
            self._checksum = self._digest(bits=digest.hexdigest())
        return self._checksum

    def prepare_data(self) -> None:
        """Fetch the file if ``source`` says so and it is missing; pack the images where they are kept on disk."""
        if self.source == "download" and self._found() is None:
            advice = f"put it into {self.folder}, or use data.source=render, which needs no download"
            md5 = None if self.sha256 else MD5
            fetch_file(self.urls, self.folder / FILES[0], md5=md5, sha256=self.sha256, advice=advice)
        super().prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Open the packed images, or pack them; take the three splits."""
        bits = self.rows()
        if self.cache == "device":
            bits = torch.from_numpy(np.array(bits[:])).to(self._device())
        self.grid_set = PackedSet(self.full_grid, bits, SIDE, SIDE)
        super().setup(stage)

    def fill(self, rows: NDArray[np.uint8]) -> None:
        """Pack all images into ``rows`` (N, 512)."""
        if self.file is None:
            _render(rows)
        else:
            _pack_file(self.file, rows)

    def _device(self) -> torch.device:
        if self.trainer is not None:
            device: torch.device = self.trainer.strategy.root_device
            return device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _render(bits: NDArray[np.uint8]) -> None:
    sprites = SpriteSet(sprite_grid(GRID), SIDE)
    for start in with_progress(range(0, len(bits), _BLOCK), "Drawing dSprites", -(-len(bits) // _BLOCK)):
        positions = np.arange(start, min(start + _BLOCK, len(bits)))
        bits[positions] = pack_images(sprites.draw(positions))


def _pack_file(file: Path, bits: NDArray[np.uint8]) -> None:
    """Pack the images of the original file, which takes 3.0 GB unpacked, some at a time, and check its factors.

    Raises:
        VaexError: when the file is damaged or does not hold dSprites.
    """
    grid, wrong = FactorGrid({"color": 1, **GRID}), f"{file} does not hold dSprites"
    with stored_arrays(file) as arrays:
        images = arrays.array("imgs")
        expected = (len(grid), SIDE, SIDE)
        if images.shape != expected or images.dtype not in (np.uint8, np.bool_):
            raise VaexError(f"{wrong}: 'imgs' must be uint8 of shape {expected}, got {images.dtype} {images.shape}.")
        start = 0
        for block in with_progress(images.blocks, "Packing dSprites", len(grid) * SIDE * SIDE >> 24):
            if block.max() > 1:
                raise VaexError(f"{wrong}: 'imgs' must be 0 and 1, got {block.max()}.")
            bits[start : start + len(block)] = pack_images(block)
            start += len(block)
        classes = arrays.whole("latents_classes")
        if not np.array_equal(classes, grid.classes(np.arange(len(grid)))):
            raise VaexError(f"{wrong}: 'latents_classes' must count {', '.join(grid.names)} with y fastest.")
    if file_digest(file, "md5") != MD5:  # said of a file that could be read; what is wrong with another is told above
        _log.warning("%s holds dSprites, but is not the published file; it is read as it is.", file)
