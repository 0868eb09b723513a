"""Reading images, masks and labels out of whatever a data loader yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from vaex.errors import VaexError
from vaex.types import Batch


def images_of(batch: Any) -> Tensor:
    """Return the images in a batch: the tensor itself, its ``image`` entry, or the first of a tuple.

    Raises:
        VaexError: when there are none.
    """
    if isinstance(batch, Mapping):
        batch = batch.get("image", batch.get("images", batch.get("data")))
    elif isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.dim() != 4:
        raise VaexError(
            "Found no images (B, C, H, W) in the batch: expected a tensor, a tuple that starts "
            "with one, or a mapping with the key 'image'."
        )
    return batch


def as_batch(batch: Any) -> Batch:
    """Return a batch as a mapping whose ``image`` is what `images_of` finds; nothing else of a tuple is taken.

    Raises:
        VaexError: as `images_of`.
    """
    if isinstance(batch, Mapping) and "image" in batch:
        return cast("Batch", batch)
    return cast("Batch", {**(batch if isinstance(batch, Mapping) else {}), "image": images_of(batch)})


def entry(batch: Any, name: str) -> Tensor | None:
    """Return what a batch holds under ``name``, None where it is no mapping or lacks it."""
    value = batch.get(name) if isinstance(batch, Mapping) else None
    return value if isinstance(value, Tensor) else None


def group_names(trainer: Any) -> Sequence[str]:
    """Return what the Trainer's data module calls the kinds of its images; nothing where it names none."""
    names: Sequence[str] = getattr(getattr(trainer, "datamodule", None), "group_names", ())
    return names
