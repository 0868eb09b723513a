"""A FactorVAE as on dSprites, and its training step under Lightning, one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.modules import FactorVAEModule
from vaex.types import Batch


def built(attention: dict[str, Any] | None = None, channels_last: bool = False) -> FactorVAEModule:
    """Return FactorVAE on dSprites, as in experiment=dsprites_factor_vae; ``attention`` are options of that loss."""
    network = {"name": "factor_vae", "shape": [1, 64, 64], "latents": 10, "init": "normal"}
    term = {} if attention is None else {"weight": 1.0, **attention}
    objective = {"name": "factor_vae", "gamma": 40.0, "attention": term}
    return FactorVAEModule(network, objective, channels_last=channels_last)


class _Gate(pl.Callback):
    """Let one batch pass at a time: what lies between two batches belongs to the first of them."""

    def __init__(self) -> None:
        self.open, self.waiting = threading.Semaphore(0), threading.Semaphore(0)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.waiting.release()
        self.open.acquire()


class LightningSteps:
    """Each call is one training step of `FactorVAEModule` within one ``Trainer.fit``, with all that Lightning does.

    The trainer runs in a thread of its own, which is waited for, so that the steps of others can come in between.
    ``precision`` is Lightning's; training is where ``images`` are.
    """

    def __init__(self, module: FactorVAEModule, images: Tensor, folder: Path, precision: Any = "32-true") -> None:
        self.gate, self.error = _Gate(), None
        self.trainer = pl.Trainer(
            accelerator="cpu" if images.device.type == "cpu" else "gpu",
            devices=1,
            precision=precision,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self.gate],
            default_root_dir=folder,
        )
        self._thread = threading.Thread(target=self._fit, args=(module, images), daemon=True)
        self._thread.start()
        self._wait()

    error: BaseException | None

    def _fit(self, module: FactorVAEModule, images: Tensor) -> None:
        try:
            torch.set_num_threads(1)  # of this thread
            self.trainer.fit(module, train_dataloaders=_Endless(Batch(image=images)))
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            self.error = error
        finally:
            self.gate.waiting.release()

    def _wait(self) -> None:
        self.gate.waiting.acquire()
        if self.error is not None:
            raise VaexError(f"The training that is measured failed: {self.error}") from self.error

    def __call__(self) -> None:
        """Train by one batch."""
        self.gate.open.release()
        self._wait()

    def close(self) -> None:
        """End the training."""
        self.trainer.should_stop = True
        while self._thread.is_alive():
            self.gate.open.release()
            self._thread.join(0.2)


class _Endless:
    """The same batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch
