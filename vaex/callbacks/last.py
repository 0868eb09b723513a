"""The checkpoint to resume from: written every so many steps, at every epoch's end, and when a run is interrupted."""

from __future__ import annotations

import operator
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from vaex.callbacks.ending import training_ends
from vaex.cluster import REQUEUE_SIGNAL, requeue_job, slurm_job
from vaex.errors import VaexError
from vaex.runs import unfinished


class LastCheckpoint(Checkpoint):
    """Keep ``path`` at most ``every_n_steps`` optimiser steps old; weights that are not finite never overwrite it.

    What is saved behind a step waits beside ``path`` until the loggers have written that step's values: a run that is
    killed in between goes on from the checkpoint before, and its history has no gap.

    On the first SIGINT or SIGTERM the step is finished (and the validation that follows it, so that a resumed run need
    not repeat it), ``path`` written and training stopped: an interrupt in the middle of an optimiser step would leave
    half-updated weights, so the handler only notes it, in ``received``. A second SIGINT stops at once. In a SLURM job
    `vaex.cluster.REQUEUE_SIGNAL` does the same, and then the job is requeued. All processes stop behind the same step.

    Raises:
        VaexError: when ``every_n_steps`` is below 1.
    """

    def __init__(self, path: str, every_n_steps: int = 500) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise VaexError(f"callbacks.last_checkpoint.every_n_steps must be at least 1, got {every_n_steps}.")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self._saved_at = 0
        self._before_batch = 0
        self.received: int | None = None
        self._stopping = False
        self._settled = False  # saved since it was decided to stop
        self._waiting: tuple[Path, int, int] | None = None  # what was saved, and what was logged by then
        self._requeue = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals where the interpreter allows it (the main thread)."""
        self.received, self._stopping, self._settled, self._requeue = None, False, False, False
        self._saved_at = trainer.global_step
        requeue = (REQUEUE_SIGNAL,) if slurm_job() else ()
        for number in (signal.SIGINT, signal.SIGTERM, *requeue):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self._requeue = self._requeue or number == REQUEUE_SIGNAL
        rank_zero_info("\nInterrupted: finishing this step and saving (press Ctrl-C again to stop at once) ...")

    def _agree_to_stop(self, trainer: pl.Trainer) -> None:
        self._stopping = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        self._saved_at, self._settled = trainer.global_step, self._stopping
        finite = all(bool(torch.isfinite(weight).all()) for weight in trainer.lightning_module.parameters())
        if finite and not getattr(trainer, "fast_dev_run", False):
            file = unfinished(self.path)
            trainer.save_checkpoint(file, weights_only=False)
            self._waiting = file, *_logged(trainer)

    def _take(self, trainer: pl.Trainer) -> None:
        """Let what waits become ``path``: the values of its step are logged."""
        if self._waiting is not None and trainer.is_global_zero:
            self._waiting[0].replace(self.path)
        self._waiting = None

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self._before_batch:
            return  # gradients are being accumulated, and a checkpoint does not hold them
        if self._stopping or training_ends(trainer) or trainer.global_step - self._saved_at >= self.every_n_steps:
            self._save(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take what the end of the epoch before saved."""
        self._take(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind the step or the epoch that was saved: by now its values are logged."""
        self._take(trainer)
        if self._settled:
            self._stop(trainer)
        self._before_batch = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due or a signal came, unless a validation or the end of the epoch follows."""
        self._agree_to_stop(trainer)
        if not trainer.is_last_batch and not validation_follows(trainer, batch_idx):
            self._save_if_due(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take what the step before it saved."""
        self._take(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save behind a validation in the middle of an epoch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not trainer.is_last_batch:
            self._agree_to_stop(trainer)
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of every epoch; one that is cut short was saved by its last step."""
        self._take(trainer)
        self._agree_to_stop(trainer)
        if trainer.is_last_batch or self._saved_at != trainer.global_step:
            self._save(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._requeue, all=False) and trainer.is_global_zero:
            requeue_job()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back; one that came during the last epoch stops what would follow the training."""
        self._take(trainer)
        if self._stopping:
            self._stop(trainer)
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back; what waits is kept if its step was logged before the error came."""
        if self._waiting is not None and any(map(operator.gt, _logged(trainer), self._waiting[1:])):
            self._take(trainer)
        elif self._waiting is not None and trainer.is_global_zero:
            self._waiting[0].unlink(missing_ok=True)
        self._waiting = None
        self._restore()


def _logged(trainer: pl.Trainer) -> tuple[int, int]:
    """Return the steps and the epochs whose values all loggers have written; Lightning counts them behind that."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped, trainer.fit_loop.epoch_progress.current.completed


def validation_follows(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Tell whether Lightning validates behind this training batch.

    A checkpoint saved before that validation would leave it out on resume.
    """
    every = trainer.val_check_batch
    if not trainer.enable_validation or not every:
        return False
    epochs = trainer.check_val_every_n_epoch
    if epochs is not None and (trainer.current_epoch + 1) % epochs:
        return False
    index = trainer.fit_loop.total_batch_idx if epochs is None else batch_idx
    return (index + 1) % every == 0
