"""A training of a few steps that can be killed, interrupted and resumed at any of them."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from vaex.callbacks import LastCheckpoint
from vaex.data import Sprites
from vaex.modules import VAEModule

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
GRID = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}
BATCHES = 6  # of 8 images per epoch: 64 sprites, less 8 for validation and 8 for the test


class KilledError(Exception):
    """Stands for a crash: nothing may run between it and the resume."""


@dataclass
class Watch(pl.Callback):
    """Note what was trained on, and stop the run where the test wants it."""

    kill_at: int | None = None  # optimiser steps after which the run dies
    signal_at: tuple[str, int] | None = None  # hook, and number of batches trained on before the signal
    numbers: tuple[signal.Signals, ...] = ()
    batches: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    validations: list[int] = field(default_factory=list)

    def _kill(self, trainer: pl.Trainer) -> None:
        if self.kill_at == trainer.global_step:
            raise KilledError

    def _signal(self, hook: str, count: int) -> None:
        if self.signal_at == (hook, count):
            self.signal_at = None
            for number in self.numbers:
                os.kill(os.getpid(), number)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._kill(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._kill(trainer)
        self._signal("batch", len(self.batches))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((trainer.current_epoch, batch_idx, tuple(batch["index"].tolist())))

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._signal("validation", len(self.batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)


@dataclass
class Fit:
    """What is left of a run: ``ended`` is the exception that stopped it."""

    module: VAEModule
    trainer: pl.Trainer
    watch: Watch
    ended: BaseException | None

    def checkpoint(self, path: Path) -> dict[str, Any]:
        """Everything that decides how training would go on from here."""
        self.trainer.save_checkpoint(path)
        return state(path)


def state(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "current_model_state", "averaging_state")
    return {name: content[name] for name in names if name in content}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Names of the values in which two checkpoints differ, by a single bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), where
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


SmallFit = Callable[..., Fit]


@pytest.fixture
def small_fit(tmp_path: Path) -> SmallFit:
    def fit(
        path: Path | None = None,
        resume: Path | None = None,
        every: int = 1,
        workers: int = 0,
        watch: Watch | None = None,
        callbacks: Sequence[pl.Callback] = (),
        module: VAEModule | None = None,
        schedule: dict[str, Any] | None = None,
        loaders: dict[str, Any] | None = None,
        **options: Any,
    ) -> Fit:
        watch = watch or Watch()
        module = module or VAEModule(
            NETWORK,
            {"name": "beta_vae"},
            {"name": "adam", "lr": 1e-2},
            schedule or {"name": "cosine", "warmup_steps": 3},
            seed=5,
        )
        last = [LastCheckpoint(str(path), every)] if path else []
        trainer = pl.Trainer(
            accelerator="cpu",
            callbacks=[*callbacks, watch, *last],
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"max_epochs": 3, "logger": False, **options},
        )
        data = Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8, num_workers=workers)
        source = loaders or {"datamodule": data}
        ended: BaseException | None = None
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*does not have many workers.*")
                warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
                trainer.fit(module, ckpt_path=resume, weights_only=True if resume else None, **source)
        except (KilledError, SystemExit) as error:
            ended = error
        return Fit(module, trainer, watch, ended)

    return fit


@pytest.fixture
def own_handlers() -> Iterator[dict[int, Any]]:
    """Handlers of the program around the training, by signal."""

    def on_interrupt(number: int, frame: Any) -> None:
        raise AssertionError("the interrupt reached the program around the training")

    def on_terminate(number: int, frame: Any) -> None:
        raise AssertionError("the termination reached the program around the training")

    mine = {signal.SIGINT: on_interrupt, signal.SIGTERM: on_terminate}
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    yield {int(number): handler for number, handler in mine.items()}
    for number, handler in before.items():
        signal.signal(number, handler)
