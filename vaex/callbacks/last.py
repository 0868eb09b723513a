"""The checkpoint to resume from: written every so many steps, at every epoch's end, and when a run is interrupted."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from vaex.errors import VaexError


class LastCheckpoint(Checkpoint):
    """Keep ``path`` at most ``every_n_steps`` optimiser steps old.

    On the first SIGINT or SIGTERM the step is finished, ``path`` written and training stopped: an interrupt in the
    middle of an optimiser step would leave half-updated weights, so the handler only notes it. A second SIGINT stops
    at once.

    Raises:
        VaexError: when ``every_n_steps`` is below 1.
    """

    def __init__(self, path: str, every_n_steps: int = 500) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise VaexError(f"callbacks.last.every_n_steps must be at least 1, got {every_n_steps}.")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self._saved_at = -1
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = trainer.global_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals where the interpreter allows it (the main thread)."""
        self._received = None
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        rank_zero_info("\nInterrupted: finishing this step and saving (press Ctrl-C again to stop at once) ...")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due or a signal came; in the latter case stop."""
        stop = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)
        due = trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._saved_at
        if stop or (due and not trainer.fast_dev_run):
            self._save(trainer)
        if stop:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of every epoch."""
        if not trainer.fast_dev_run:
            self._save(trainer)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()
