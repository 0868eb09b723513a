"""Augmentation by albumentations: image and mask together, each picture a function of its seed alone."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.data.records import SPLITS
from vaex.errors import VaexError, unknown

TRANSFORMS = (
    *("HorizontalFlip", "VerticalFlip", "RandomRotate90", "Rotate", "Affine", "Perspective", "RandomResizedCrop"),
    *("ElasticTransform", "GridDistortion", "RandomBrightnessContrast", "RandomGamma", "CLAHE", "ColorJitter"),
    *("HueSaturationValue", "PlanckianJitter", "GaussianBlur", "MotionBlur", "Defocus", "GaussNoise", "ISONoise"),
    *("ShotNoise", "ImageCompression", "Downscale", "RandomShadow", "Illumination", "Sharpen"),
)
"""Transforms of albumentations that a config may name; none of them reads a file or runs code out of the config."""

_COLOR_ONLY = {"HueSaturationValue", "PlanckianJitter", "ISONoise", "RandomShadow"}

_BORDERS = {"reflect": 4, "constant": 0, "replicate": 1}  # numbers of OpenCV, whose reflection does not repeat the edge


class Augmentation:
    """A list of transforms out of the config, applied in turn to an image and its mask.

    Each item of ``transforms`` is the name of one of `TRANSFORMS` with its options, those of albumentations 2.0.8;
    ``border_mode`` may be reflect, constant or replicate. A mask is moved like its image, by nearest neighbour, and
    left alone by what changes brightness. ``split`` says whose images are changed; the data module reads it.

    Raises:
        VaexError: for an unknown transform, option or split, or when albumentations cannot be imported.
    """

    def __init__(self, name: str = "own", split: str = "train", transforms: Sequence[Mapping[str, Any]] = ()) -> None:
        if split not in SPLITS:
            raise unknown("augmentation.split", split, SPLITS)
        self.name, self.split = name, split
        self.options = [dict(item) for item in transforms]
        for item in self.options:
            if item.get("name") not in TRANSFORMS:
                raise unknown("transform in augmentation.transforms", str(item.get("name")), TRANSFORMS)
        self._compose: Any = None
        if self.options:
            self._build()  # a wrong option fails before training starts

    def check_channels(self, channels: int) -> None:
        """Refuse grey images, of one channel, where a transform needs colour."""
        if channels == 1 and (colour := [item["name"] for item in self.options if item["name"] in _COLOR_ONLY]):
            raise VaexError(f"The transform {colour[0]} needs colour images; leave it out, or set data.channels=3.")

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image (C, H, W) and mask (H, W), both uint8, changed as ``seed`` alone decides."""
        compose = self._build()
        first, second = np.random.SeedSequence([abs(part) for part in seed]).generate_state(2).tolist()
        # One stream for all transforms: a seed of their own would make each draw the same numbers
        compose.set_random_state(np.random.default_rng(first), random.Random(second))  # noqa: S311 - no secret
        result = compose(image=np.ascontiguousarray(image.transpose(1, 2, 0)), mask=np.ascontiguousarray(mask))
        changed = result["image"]
        changed = changed[..., None] if changed.ndim == 2 else changed
        if changed.shape[:2] != image.shape[1:]:
            raise VaexError(f"augmentation={self.name} changes the size of images; set size in its transforms.")
        return changed.transpose(2, 0, 1), result["mask"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compose": None}  # processes build their own

    def _build(self) -> Any:
        if self._compose is None:
            os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for news
            try:
                import albumentations  # type: ignore[import-untyped]
            except ImportError as error:
                raise VaexError(
                    f"augmentation={self.name} needs albumentations==2.0.8 ({error}); install it or set "
                    "augmentation=none."
                ) from error
            self._compose = albumentations.Compose([_transform(albumentations, item) for item in self.options], seed=0)
        return self._compose


def _transform(library: Any, item: Mapping[str, Any]) -> Any:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items() if key != "name"}
    if isinstance(mode := options.get("border_mode"), str):
        if mode not in _BORDERS:
            raise unknown(f"border_mode of {item['name']}", mode, _BORDERS)
        options["border_mode"] = _BORDERS[mode]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # it only warns of options that it does not know
        try:
            return getattr(library, item["name"])(**options)
        except (TypeError, ValueError, UserWarning) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise VaexError(
                f"augmentation.transforms: {item['name']} does not take {options} ({first}); see its documentation."
            ) from error
