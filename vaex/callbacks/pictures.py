"""What callbacks leave to look at: a figure of maps, their numbers as .npz, pictures and animations in the loggers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from vaex.callbacks.ending import training_ends
from vaex.runs import write_atomic
from vaex.types import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawing(pl.Callback):
    """A callback that draws in every ``every_n_epochs``-th epoch's validations, and at the end of training.

    How a training ends may be known behind its last validation alone (early stopping, ``max_time``, steps that follow
    it); then the picture shows what that validation looked at, with the weights of the end.
    """

    every_n_epochs: int
    _drawn_at = -1

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        raise NotImplementedError

    def _draw_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if picture_due(trainer, self.every_n_epochs):
            self._drawn_at = trainer.global_step
            self._draw(trainer, pl_module, "val")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what was drawn in a training before."""
        self._drawn_at = -1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the end, unless a validation did."""
        if self._drawn_at == trainer.global_step:
            return
        callbacks: list[pl.Callback] = vars(trainer)["callbacks"]
        for averaging in callbacks:
            if isinstance(
                averaging, WeightAveraging
            ):  # which come with the average now or after this, as validations do
                averaging.on_train_end(trainer, pl_module)
        self._draw(trainer, pl_module, "val")


def picture_due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Tell whether a validation ends with a picture: every n-th epoch of a training, its end, and outside training."""
    if trainer.sanity_checking or trainer.state.fn != "fit":
        return not trainer.sanity_checking
    return training_ends(trainer) or (trainer.current_epoch + 1) % every_n_epochs == 0


def picture_name(trainer: pl.Trainer, what: str) -> str:
    """Return the name of a picture of this moment: ``what``, in a training with the epoch, ``what_epoch0003``.

    Where an epoch has several validations, or a validation several epochs, it is the number of optimiser steps made,
    ``what_step0005000``, so that none takes the place of another. In the logs it stands at the row of the last of them,
    which count from 0.
    """
    if trainer.state.fn != "fit":
        return what
    interval = trainer.val_check_interval  # 1.0 is an epoch, and 1 a batch
    if trainer.check_val_every_n_epoch is not None and isinstance(interval, float) and interval == 1:
        epoch = trainer.current_epoch if trainer.validating else trainer.current_epoch - 1  # counted when training ends
        return f"{what}_epoch{epoch:04d}"
    return f"{what}_step{trainer.global_step:07d}"


def explanation_figure(
    images: Tensor, explanation: Explanation, mask: Tensor | None, columns: list[int], titles: list[str]
) -> Figure:
    """Draw rows of image, reconstruction, the maps ``columns`` and the score map, the mask outlined."""
    from vaex.viz import attention_figure  # matplotlib only when drawn

    reconstruction, outline = (None if t is None else _array(t) for t in (explanation.reconstruction, mask))
    maps, scored = _array(explanation.maps[:, columns]), explanation.score_map.clamp(min=0)
    return attention_figure(
        _array(images), reconstruction, maps, titles=titles, masks=outline, score_maps=_array(scored)
    )


def save_maps(path: Path, images: Tensor, explanation: Explanation) -> None:
    """Write images, maps, score map, score, code and KL as arrays of one .npz, atomically."""
    stated = {name: value for name, value in explanation._asdict().items() if value is not None}
    arrays: dict[str, Any] = {name: _array(value) for name, value in {"images": images, **stated}.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step under which Lightning logs numbers at this moment, so that pictures stand beside them.

    It counts training batches that stepped; ``trainer.global_step`` is one ahead in a validation, and counts a batch
    once per optimiser. At the end of an epoch the last one is counted already, and its row is the one before.
    """
    loop = trainer.fit_loop.epoch_loop
    batches = loop.batch_progress.current
    counted = trainer.training and batches.completed == batches.ready
    return max(0, loop._batches_that_stepped - counted)


def log_picture(logger: Any, key: str, picture: Any, step: int) -> None:
    """Send an RGB picture (H, W, 3) uint8 to a logger that takes images (wandb, tensorboard); others are left alone."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=key, images=[picture], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(key, torch.from_numpy(picture.copy()), step, dataformats="HWC")


def log_animation(logger: Any, key: str, path: Path, step: int) -> None:
    """Send a GIF to a logger that takes moving pictures as files (wandb); others are left alone."""
    if hasattr(logger, "log_video"):
        logger.log_video(key=key, videos=[str(path)], step=step, format=["gif"])


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return array
