"""Where the images of a command come from and what they are called, its list options, and its device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vaex.errors import VaexError

EXAMPLES = 6
LONGEST = 200  # bytes of a picture's name; file systems take 255, and the overlays add to it

Sources = dict[str, Callable[[], Any]]
"""Name -> what reads the pixels (C, H, W), float32 in [0, 1], so that only one batch is in memory."""


@dataclass(frozen=True)
class ImageFile:
    """An image file; called, it gives the pixels (C, H, W) of ``shape``, float32 in [0, 1]."""

    path: Path
    shape: tuple[int, int, int]
    white: float | None = None  # see `vaex.data.images.read_image`

    def __call__(self) -> Any:
        """Return the pixels that data modules give: thresholds were made on these."""
        return self._read(self.shape)

    def size(self) -> tuple[int, int]:
        """Return (width, height) of the picture as it is shown."""
        from vaex.data.images import image_size

        return image_size(self.path)

    def original(self) -> Any:
        """Return the pixels (C, H, W) in their own size."""
        width, height = self.size()
        return self._read((self.shape[0], height, width))

    def _read(self, shape: tuple[int, int, int]) -> Any:
        import numpy as np

        from vaex.data.images import read_pixels

        return read_pixels(self.path, shape, self.white) / np.float32(255)


def size_and_pixels(source: Callable[[], Any], original: bool = False) -> tuple[tuple[int, int], Any]:
    """Return (width, height) of a source's image and its pixels (C, H, W), as the model takes them or ``original``."""
    if isinstance(source, ImageFile):
        pixels = source.original() if original else source()
        return source.size(), pixels
    pixels = source()
    return (pixels.shape[2], pixels.shape[1]), pixels


def list_option(value: Any, key: str) -> list[int]:
    """Return the numbers of a list option such as ``latents=[0,3]``, each once; a single number counts as a list.

    Raises:
        VaexError: when it is empty or holds anything but whole numbers.
    """
    numbers = [value] if isinstance(value, int) else value
    if isinstance(numbers, str) or not isinstance(numbers, Sequence) or not numbers:
        raise VaexError(f"{key} must be a list of whole numbers such as {key}=[0,3], got '{value}'.")
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise VaexError(f"{key} must hold whole numbers only, such as {key}=[0,3], got '{value}'.")
    return list(dict.fromkeys(numbers))


def at_least_one(value: Any, key: str) -> int:
    """Return ``value``.

    Raises:
        VaexError: when it is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise VaexError(f"{key} must be at least 1 and a whole number, got {value}.")
    return value


def pick_device(name: str) -> str:
    """Return a torch device for ``auto``, ``cpu``, ``cuda`` ...

    Raises:
        VaexError: when the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise VaexError(
            f"device={name} is not available here ({str(error).splitlines()[0]}); use device=auto."
        ) from error
    return name


def model_shape(model: Any) -> tuple[int, int, int]:
    """Return the image shape (C, H, W) that the model was trained on."""
    channels, height, width = model.config["network"]["shape"]
    return channels, height, width


def white_of(data: Any) -> float | None:
    """Return what is white by a data config, None where it does not say; checked, as it may be out of a checkpoint.

    Raises:
        VaexError: when it is no number above 0.
    """
    from vaex.data.images import checked_white

    return checked_white((data or {}).get("white"))


def fit_data(config: DictConfig, model: Any) -> None:
    """Let data that are named anew be read and cut as the model's were, where nothing else was typed."""
    from hydra.core.hydra_config import HydraConfig

    from vaex.config import CHECKPOINT_CHOICE

    if HydraConfig.get().runtime.choices.get("data") == CHECKPOINT_CHOICE:
        return
    typed = {override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task}
    (channels, height, width), own = model_shape(model), (model.config.get("run") or {}).get("data")
    known = {"channels": channels, "size": height if height == width else None, "white": white_of(own)}
    known |= {key: (own or {}).get(key) for key in ("tile", "overlap")}
    for key, value in known.items():
        if value is not None and key in config.data and f"data.{key}" not in typed:
            config.data[key] = value


def image_sources(images: str | None, shape: tuple[int, int, int], white: float | None = None) -> Sources:
    """Return the image files at ``images``, named by their path below it, or example sprites where it is None.

    Raises:
        VaexError: when there are no images, or the model does not take sprites.
    """
    from vaex.data.images import image_files

    if images is not None:
        root = Path(images).expanduser()
        named = {
            (file.name if root.is_file() else file.relative_to(root).as_posix()): file for file in image_files(root)
        }
        return {_printable(name): ImageFile(file, shape, white) for name, file in named.items()}
    if shape[0] != 1 or shape[1] != shape[2]:
        raise VaexError(
            f"Name your images (images=FILE or FOLDER): example sprites do not suit a model of {shape} images."
        )
    from vaex.data.render import example_sprites

    sprites = example_sprites(EXAMPLES, shape[1])
    return {f"sprite{i}": partial(sprite[None].astype, "float32") for i, sprite in enumerate(sprites)}


def _printable(name: str) -> str:
    # Bytes of a file name that are not UTF-8 can be written neither into a zip nor into a csv
    return name.encode("utf-8", "backslashreplace").decode()


def test_sources(data_config: DictConfig, positions: Sequence[int]) -> Sources:
    """Return the images at ``positions`` in the checkpoint's own test set.

    Raises:
        VaexError: when the checkpoint has no data config, or a position is out of range.
    """
    from vaex.commands.assembly import build_data

    data: Any = build_data(data_config, from_checkpoint=True)
    data.prepare_data()
    data.setup("test")
    count = len(data.test_set)
    wrong = [position for position in positions if not 0 <= position < count]
    if wrong:
        raise VaexError(f"test_images={list(positions)}: {wrong} are out of range, there are 0 to {count - 1}.")

    def read(position: int) -> Any:
        return data.test_set.__getitems__([position])["image"][0].numpy()

    return {f"test{i:05d}": partial(read, i) for i in positions}


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """Return name -> file stem, folders as ``__`` and without suffix; a stem that is taken gets a number.

    No two are the same on a file system that ignores case.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        folder, _, file = name.rpartition("/")
        flat = "__".join([*folder.split("/"), Path(file).stem] if folder else [Path(file).stem])
        safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", flat).lstrip(".") or "image"
        stem = short = safe.encode()[:LONGEST].decode(errors="ignore")
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{short}_{number}"
        taken.add(stem.casefold())
        stems[name] = stem
    return stems


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` items, the last one shorter."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
