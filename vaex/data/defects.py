"""The built-in anomaly data set: surfaces with flaws and their masks, drawn on demand instead of downloaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vaex.data.anomalies import Recipe
from vaex.data.flaws import FLAWS, add_flaw
from vaex.data.module import ImageDataModule
from vaex.data.records import GOOD, SYNTHETIC, PastedSet, checked_recipe, with_pasted
from vaex.data.surfaces import TEXTURES, light_surface, smooth_noise
from vaex.errors import VaexError, unknown
from vaex.types import Batch

SIZES = (32, 1024)
"""Smallest and largest image side in pixels."""

_VERSION = 2  # of the drawing; part of the checksum
_SPLITS = ("train", "val", "test")
_SMOOTH = 96  # smallest side in pixels that is drawn as it is
_VISIBLE = 0.06  # least mean change of a flaw's pixels, in their channel that changes most


class Picture(NamedTuple):
    """A drawn surface, with and without its flaw; the two are the same wherever the mask is 0."""

    image: NDArray[np.uint8]  # (C, S, S)
    mask: NDArray[np.uint8]  # (S, S) of 0 and 1
    flawless: NDArray[np.uint8]  # (C, S, S)


def draw_surface(
    texture: str, size: int, channels: int, key: Sequence[int], kind: str = GOOD, grain: float = 0.01
) -> Picture:
    """Draw the picture that ``key`` numbers: a texture of `TEXTURES` with a flaw of `FLAWS`, or good.

    ``grain`` is the standard deviation of the camera's noise in units of pixel values.
    """
    entropy = (list(TEXTURES).index(texture), *key)
    random = np.random.default_rng((0, *entropy))
    fine = size * (1 if size >= _SMOOTH else 2)  # small pictures are drawn larger and averaged
    surface = TEXTURES[texture](fine, random)
    glow = random.normal(1, 0.025) + 0.03 * smooth_noise(random, 1, 1, fine)
    noise = np.float32(grain) * random.standard_normal((channels, size, size), dtype=np.float32)
    flawless = _exposed(light_surface(surface, glow), noise)
    if kind == GOOD:
        return Picture(flawless, np.zeros((size, size), np.uint8), flawless)
    random = np.random.default_rng((1, *entropy))
    for attempt in range(50):  # a dark flaw on a dark thread, or a hairline, is drawn again, stronger
        flaw = add_flaw(surface, kind, random, min(1 + 0.1 * attempt, 2.5))
        mask = _shrunk(flaw.mask.astype(np.float32), size) >= 0.5
        image = np.where(mask, _exposed(light_surface(flaw.surface, glow), noise), flawless)
        change = np.abs(image.astype(np.int16) - flawless).max(axis=0)[mask]
        if change.size >= max(4, size * size // 2000) and change.mean() >= 255 * _VISIBLE:
            break
    return Picture(image, mask.astype(np.uint8), flawless)


def _exposed(picture: NDArray[Any], noise: NDArray[np.float32]) -> NDArray[np.uint8]:
    if len(noise) == 1:
        weights = np.array((0.299, 0.587, 0.114), np.float32)[:, None, None]
        picture = (weights * picture).sum(axis=0, keepdims=True)
    return np.rint(255 * np.clip(_shrunk(picture, noise.shape[1]) + noise, 0, 1)).astype(np.uint8)


def _shrunk(picture: NDArray[Any], size: int) -> NDArray[Any]:
    step = picture.shape[-1] // size
    return picture.reshape(*picture.shape[:-2], size, step, size, step).mean(axis=(-3, -1)) if step > 1 else picture


class SurfaceSet:
    """Pictures of one split, drawn when first asked for and kept as uint8.

    An image depends on the settings, the split and its position alone. With ``pasted``, every picture comes twice in a
    row: as it is, and with a defect of `paste_defects`.
    """

    def __init__(
        self,
        texture: str,
        size: int,
        channels: int,
        seed: int,
        split: str,
        kinds: Sequence[str],
        group_names: tuple[str, ...],
    ) -> None:
        self.texture, self.size, self.channels, self.seed, self.split = texture, size, channels, seed, split
        self.kinds = tuple(kinds)
        """Kind of flaw of each picture, or good."""
        self.group_names = group_names
        self._drawn: dict[int, Picture] = {}

    def __len__(self) -> int:
        return len(self.kinds)

    def picture(self, position: int) -> Picture:
        """Draw the picture at a position, without pasted defect."""
        if position not in self._drawn:
            key = (self.seed, _SPLITS.index(self.split), position)
            self._drawn[position] = draw_surface(self.texture, self.size, self.channels, key, kind=self.kinds[position])
        return self._drawn[position]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Gather image (B, C, H, W), mask (B, 1, H, W), label, group and index (B,)."""
        index = torch.as_tensor(indices, dtype=torch.long)
        pictures = [self.picture(position) for position in indices]
        image = torch.from_numpy(np.stack([picture.image for picture in pictures])).float().div_(255)
        mask = torch.from_numpy(np.stack([picture.mask for picture in pictures])[:, None]).float()
        kinds = [self.group_names.index(self.kinds[position]) for position in indices]
        group = torch.tensor(kinds, dtype=torch.long)
        return Batch(image=image, mask=mask, label=(group > 0).long(), group=group, index=index)


class Defects(ImageDataModule):
    """Textured surfaces drawn by code, with scratches, spots, cuts and stains and their exact masks: no download.

    Training images are normal. Validation has other normal images and, with ``synthetic``, a copy of each with a
    defect of `vaex.data.anomalies.paste_defects`. The test has normal images and every kind of flaw, drawn by other
    code than that, in the groups of ``group_names``. Images are (channels, size, size), float32 in [0, 1].

        >>> data = vaex.data.Defects(texture="leather", size=128)
        >>> data.prepare_data(); data.setup()
        >>> batch = next(iter(data.test_dataloader()))
        >>> batch["image"].shape, batch["mask"].shape, data.group_names
        (torch.Size([16, 3, 128, 128]), torch.Size([16, 1, 128, 128]), ('good', 'cut', 'scratch', ...))

    Args:
        texture: name in `vaex.data.surfaces.TEXTURES`: weave, wood, metal, brick, grid, leather, or the washer, an
            aligned object.
        size: height and width in pixels, `SIZES`; the scene stays the same.
        channels: 3 for colour, 1 for grey.
        train: normal images to train on.
        val: normal images held out for validation.
        synthetic: give validation a copy of each image with a pasted defect, label 1 and mask.
        pasted: the same for training, so many copies of each image, for objectives that learn from defects.
        recipe: which defects those of ``pasted`` are, options of `vaex.data.anomalies.Recipe`; None: all. The copies of
            validation have all kinds whatever it says, so that runs of different recipes have one judge.
        test_good: normal images of the test.
        test_defects: test images of each kind of flaw.
        kinds: kinds of flaws in the test, of `vaex.data.flaws.FLAWS`; None: all.

    Raises:
        VaexError: when a setting is unknown or out of range.
    """

    train_set: SurfaceSet | PastedSet
    val_set: SurfaceSet | PastedSet
    test_set: SurfaceSet

    TEST_KEYS = ("test_good", "test_defects")

    def __init__(
        self,
        texture: str = "leather",
        size: int = 128,
        channels: int = 3,
        train: int = 200,
        val: int = 40,
        synthetic: bool = True,
        pasted: int = 0,
        recipe: Mapping[str, Any] | None = None,
        test_good: int = 40,
        test_defects: int = 20,
        kinds: Sequence[str] | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        if texture not in TEXTURES:
            raise unknown("data.texture", texture, TEXTURES)
        if type(size) is not int or not SIZES[0] <= size <= SIZES[1]:
            raise VaexError(f"data.size must be a whole number of pixels in {SIZES[0]}..{SIZES[1]}, got {size!r}.")
        if channels not in (1, 3):
            raise VaexError(f"data.channels must be 3 (colour) or 1 (grey), got {channels!r}.")
        counts = {"train": train, "val": val, "test_good": test_good, "test_defects": test_defects, "seed": seed}
        for name, count in counts.items():
            if type(count) is not int or count < 0:
                raise VaexError(f"data.{name} must be a whole number of at least 0, got {count!r}.")
        if isinstance(kinds, str):
            raise VaexError(f"data.kinds must be a list of kinds of flaws ({', '.join(sorted(FLAWS))}), got {kinds!r}.")
        for kind in kinds or ():
            if kind not in FLAWS:
                raise unknown("kind of flaw in data.kinds", kind, FLAWS)
        super().__init__((channels, size, size), batch_size, eval_batch_size, num_workers, pin_memory, drop_last, seed)
        self.pasted, self.recipe = pasted, checked_recipe(pasted, recipe)
        self.texture, self.synthetic = texture, synthetic
        self.kinds = tuple(sorted(FLAWS if kinds is None else set(kinds)))
        self.group_names = (GOOD, *self.kinds, *SYNTHETIC)
        """Names that ``group`` of a batch counts."""
        flawed = tuple(kind for kind in self.kinds for _ in range(test_defects))
        self._pictures = {"train": (GOOD,) * train, "val": (GOOD,) * val, "test": (GOOD,) * test_good + flawed}

    @property
    def checksum(self) -> str:
        """SHA-256 of the settings that determine the images and the splits."""
        settings = [_VERSION, self.texture, self.shape, self.seed, self.synthetic, self.pasted, self._pictures]
        settings += [vars(self.recipe)] if self.recipe != Recipe() else []
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def prepare_data(self) -> None:
        """Nothing to fetch: surfaces are drawn."""

    def setup(self, stage: str | None = None) -> None:
        """Make the three splits, which draw their pictures when asked."""
        if hasattr(self, "train_set"):
            return  # keep what is drawn
        train, val, self.test_set = (self._split(split) for split in _SPLITS)
        self.train_set = with_pasted(train, self.pasted, self.seed, self.recipe)
        self.val_set = PastedSet(val, self.seed) if self.synthetic else val

    def _split(self, split: str) -> SurfaceSet:
        channels, size, _ = self.shape
        kinds = self._pictures[split]
        return SurfaceSet(self.texture, size, channels, self.seed, split, kinds, self.group_names)
