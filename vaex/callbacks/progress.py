"""The progress bar of training: one that counts steps where the run is measured in steps, else one for each epoch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar, which for ``max_epochs=-1`` shows ``Step 1200/300000`` and the time left of the whole run.

    Differs: Lightning restarts its bar at every epoch and names it "Epoch 0/-2" there, as -1 stands for no end of
    epochs.

    Args:
        refresh_rate: updates of the screen per second, 0 for no bar.
        **options: further options of Lightning's ``RichProgressBar``.
    """

    def __init__(self, refresh_rate: int = 10, **options: Any) -> None:
        super().__init__(refresh_rate=refresh_rate, **options)

    @property
    def _in_steps(self) -> bool:
        return self.trainer.max_epochs == -1 and self.trainer.max_steps > 0

    @property
    def total_train_batches(self) -> int | float:
        """The length of the training bar: optimiser steps of the run, or the batches of the epoch."""
        return self.trainer.max_steps if self._in_steps else super().total_train_batches

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a bar, but not a second one for the same count of steps."""
        if not self._in_steps or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on to the step of the run, or by a batch."""
        done = trainer.global_step - 1 if self._in_steps else batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done)

    def _get_train_description(self, current_epoch: int) -> str:
        if self.trainer.max_epochs != -1:
            return super()._get_train_description(current_epoch)
        text = "Step" if self._in_steps else f"Epoch {current_epoch}"
        return text.ljust(len(self.validation_description))  # as long as the other bar's name, which would make it jump
