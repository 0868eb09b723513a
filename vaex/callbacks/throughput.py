"""The throughput callback: how fast training is, what it waits for, and how much memory it takes.

| log key | meaning |
|---|---|
| throughput/images_per_second | training images of all processes per second, validation and checkpoints left out |
| throughput/step_seconds | mean time from one training batch to the next |
| throughput/data_wait_share | share of that time in which the loop waited for its next batch, [0, 1] |
| throughput/peak_memory_gib | most memory so far of any process: allocated on its GPU, else of the program, GiB |
| throughput/validation_share | share of the time since the end of the last validation that this one took, [0, 1] |

`vaex.callbacks.Attention` logs throughput/attention_share, its share of the validation, beside them. Numbers of steps
are means over the steps since the last row; the first step of a run, which compiles and warms up, is in none.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import Profiler

from vaex.callbacks.pictures import logged_step
from vaex.modules.batches import images_of

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Lightning's name, in its profilers, of taking the next training batch from the loader."""

SAVE = "save_checkpoint"
"""Its name of writing a checkpoint."""


def now(device: torch.device | None = None) -> float:
    """Return the clock in seconds, on a GPU when all that was asked of it is done."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Return the most memory so far in GiB: what PyTorch allocated on a GPU, else what this process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Throughput(pl.Callback):
    """Log images per second, step time, waiting for data, peak memory and the share of validation.

    Rows come with those of the training, every ``trainer.log_every_n_steps`` steps. On a GPU the clock is read behind
    its work, once per row, so that steps still overlap with the loading of data; ``data_wait_share`` is then the
    time in which the program waits, part of which the GPU may still spend on the step before.

    Raises:
        VaexError: for a batch without images.
    """

    def __init__(self) -> None:
        super().__init__()
        self._profiler: Profiler | None = None
        self._forget()

    def _forget(self) -> None:
        self._images = self._steps = 0
        self._since: float | None = None  # where the row begins; None until a first step is done
        self._waited = self._elsewhere = 0.0
        self._began = self._validated = 0.0  # the validation that runs, and the end of the one before it

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen to what Lightning tells its profiler, which alone knows when a batch is waited for."""
        self._leave()
        if stage != "fit":
            return
        self._profiler = profiler = vars(trainer)["profiler"]
        start, stop = profiler.start, profiler.stop
        began = {FETCH: 0.0, SAVE: 0.0}

        def listening_start(action: str) -> None:
            start(action)
            if action in began:
                began[action] = now()

        def listening_stop(action: str) -> None:
            if action in began:
                seconds = now() - began[action]
                self._waited += seconds if action == FETCH else 0
                self._elsewhere += seconds if action == SAVE else 0
            stop(action)

        vars(profiler).update(start=listening_start, stop=listening_stop)

    def _leave(self) -> None:
        for name in ("start", "stop") if self._profiler is not None else ():
            vars(self._profiler).pop(name, None)
        self._profiler = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the profiler as it was."""
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the profiler as it was."""
        self._leave()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count."""
        self._forget()
        self._validated = now(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log where Lightning logs the training's numbers."""
        if self._since is None:  # the first step of the run, or of a resumed one
            self._restart(now(pl_module.device))
            return
        self._images += len(images_of(batch))
        self._steps += 1
        every: int = vars(trainer)["log_every_n_steps"]  # set by Lightning without a type
        if not every or (logged_step(trainer) + 1) % every:
            return
        moment = now(pl_module.device)
        seconds = moment - self._since - self._elsewhere
        if seconds > 0:
            world = trainer.world_size
            values = {
                "images_per_second": world * self._images / seconds,
                "step_seconds": seconds / self._steps,
                "data_wait_share": min(1.0, self._waited / seconds),
            }
            self._log(pl_module, values, "mean")
            self._log(pl_module, {"peak_memory_gib": peak_memory(pl_module.device)}, "max")
        self._restart(moment)

    def _restart(self, moment: float) -> None:
        self._since, self._images, self._steps = moment, 0, 0
        self._waited = self._elsewhere = 0.0

    @staticmethod
    def _log(pl_module: pl.LightningModule, values: dict[str, float], reduce: str) -> None:
        logged = {f"throughput/{name}": value for name, value in values.items()}
        pl_module.log_dict(logged, on_step=True, on_epoch=False, sync_dist=True, reduce_fx=reduce)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the steps."""
        self._began = now(pl_module.device)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the share of time that went to this validation."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        moment = now(pl_module.device)
        if moment > self._validated:
            share = (moment - self._began) / (moment - self._validated)
            pl_module.log("throughput/validation_share", share, sync_dist=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock of the steps go on."""
        self._validated = now(pl_module.device)
        self._elsewhere += self._validated - self._began
