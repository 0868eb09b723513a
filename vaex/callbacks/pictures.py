"""What the attention callback leaves to look at: a figure of maps, their numbers as .npz, a picture in the logger."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaex.attention import TARGETS
from vaex.runs import write_atomic
from vaex.types import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def columns_to_draw(
    explanation: Explanation, count: int, target: str | Callable[[Any], Tensor], latents: Sequence[int] | None
) -> tuple[list[int], list[str]]:
    """Return the ``count`` maps to draw and their titles: latents by falling mean KL over the images, with that KL.

    ``target`` and ``latents`` are what the maps were computed with.
    """
    total = explanation.maps.shape[1]
    if not isinstance(target, str) or TARGETS[target].total:
        return list(range(total))[:count], ["total"] if total == 1 else [f"target {i}" for i in range(total)][:count]
    names = list(range(total)) if latents is None else list(latents)
    kl = explanation.kl
    if kl is None or kl.shape[1] != explanation.mean.shape[1]:  # not stated, or of a prior that does not factorise
        return list(range(total))[:count], [f"z{i}" for i in names][:count]
    mean = kl.mean(0)[names]
    order = mean.argsort(descending=True, stable=True)[:count].tolist()
    return order, [f"z{names[i]}  KL {mean[i]:.2f} nats" for i in order]


def explanation_figure(
    images: Tensor, explanation: Explanation, mask: Tensor | None, columns: list[int], titles: list[str]
) -> Figure:
    """Draw rows of image, reconstruction and the maps ``columns``, the mask outlined."""
    from vaex.viz import attention_figure  # matplotlib only when drawn

    reconstruction, outline = (None if t is None else _array(t) for t in (explanation.reconstruction, mask))
    maps = _array(explanation.maps[:, columns])
    return attention_figure(_array(images), reconstruction, maps, titles=titles, masks=outline)


def save_maps(path: Path, images: Tensor, explanation: Explanation) -> None:
    """Write images, maps, score map, score, code and KL as arrays of one .npz, atomically."""
    stated = {name: value for name, value in explanation._asdict().items() if value is not None}
    arrays: dict[str, Any] = {name: _array(value) for name, value in {"images": images, **stated}.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def log_picture(logger: Any, key: str, picture: Any, step: int) -> None:
    """Send an RGB picture (H, W, 3) uint8 to a logger that takes images (wandb, tensorboard); others are left alone."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=key, images=[picture], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(key, torch.from_numpy(picture.copy()), step, dataformats="HWC")


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return array
