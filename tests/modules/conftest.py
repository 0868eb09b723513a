"""A small training for the tests of modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vaex.data import Sprites
from vaex.modules import VAEModule

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


def sprites(**options: Any) -> Sprites:
    grid = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}
    return Sprites(size=32, grid=grid, val=8, test=8, batch_size=8, **options)


def trainer_of(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "logger": False, "enable_checkpointing": bool(callbacks), **options},
    )


def train(folder: Path, module: VAEModule, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    trainer = trainer_of(folder, *callbacks, **options)
    trainer.fit(module, datamodule=sprites())
    return trainer


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
