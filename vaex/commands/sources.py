"""Where the images of a command come from, and the device it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vaex.errors import VaexError

EXAMPLES = 6


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


def image_sources(images: str | None, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return name -> file, or name -> pixels (C, H, W) of example sprites where no images are named.

    Raises:
        VaexError: when there are no images, or the model does not take sprites.
    """
    from vaex.data.images import image_files

    if images is not None:
        root = Path(images)
        return {
            (file.name if root.is_file() else file.relative_to(root).as_posix()): file for file in image_files(root)
        }
    if shape[0] != 1 or shape[1] != shape[2]:
        raise VaexError(
            f"Name your images (images=FILE or FOLDER): example sprites do not suit a model of {shape} images."
        )
    from vaex.data.render import example_sprites

    sprites = example_sprites(EXAMPLES, shape[1])
    return {f"sprite{i}": sprite[None].astype("float32") for i, sprite in enumerate(sprites)}


def test_sources(config: DictConfig) -> dict[str, Any]:
    """Return name -> pixels of the images of the checkpoint's test set at the positions ``test_images``.

    Raises:
        VaexError: when the checkpoint has no data config, or a position is out of range.
    """
    from vaex.commands.assembly import build_data

    data: Any = build_data(config.data, from_checkpoint=True)
    data.prepare_data()
    data.setup("test")
    count = len(data.test_set)
    wrong = [position for position in config.test_images if not 0 <= position < count]
    if wrong:
        raise VaexError(
            f"test_images={list(config.test_images)}: {wrong} are out of range, there are 0 to {count - 1}."
        )
    batch = data.test_set.__getitems__(list(config.test_images))
    return {f"test{i:05d}": pixels.numpy() for i, pixels in zip(config.test_images, batch["image"], strict=True)}


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` items, the last one shorter."""
    if size < 1:
        raise VaexError(f"batch_size must be at least 1, got {size}.")
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
