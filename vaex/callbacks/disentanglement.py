"""The disentanglement callback: how far latents stand for factors, every so many steps, on a fixed set of images.

| log key | meaning |
|---|---|
| disentanglement/val/<name> | a number of one of the metrics, such as factor_vae, mig, factor_vae_active_latents |
| disentanglement/val/mutual_information | picture of the mutual information of latents and factors |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import nn

from vaex.callbacks.ending import training_ends
from vaex.callbacks.pictures import log_picture, logged_step
from vaex.coding import Codes, chosen_images, encoded, has_factors
from vaex.errors import VaexError, unknown
from vaex.metrics.disentanglement.collection import SCORES, named_metrics
from vaex.metrics.disentanglement.information import information_matrix
from vaex.metrics.disentanglement.pruning import pruned_table
from vaex.metrics.disentanglement.table import TRAIN, seeded


def information_picture(table: Codes, seed: int = 0) -> NDArray[np.uint8]:
    """Return the mutual information of latents and factors in nats as a picture (H, W, 3).

    Collapsed latents, which the metrics leave out, are called that; the title has the number of images.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`.
    """
    from vaex.viz import figure_to_array  # matplotlib only when drawn
    from vaex.viz.matrix import matrix_figure

    values = information_matrix(table.codes, table.factors, seed)
    used = pruned_table(table.codes, table.factors).used
    latents = [f"z{place}" if kept else f"z{place}, collapsed" for place, kept in enumerate(used)]
    title = f"Mutual information, {min(len(table.codes), TRAIN):,} images"
    return figure_to_array(matrix_figure(values, latents, table.names, title, "nats"))


class Disentanglement(pl.Callback):
    """Measure disentanglement every ``every_n_steps`` optimiser steps, after the last one, and in ``trainer.validate``.

    ``codes`` images (None: all), drawn with ``seed`` from all that the Trainer's data module states factors of
    (``grid_set``, ``factor_names``), are encoded by their posterior means in evaluation mode; the metrics ``names``
    read that table. ``model`` is the attribute path from the LightningModule to the VAE ("" for the module itself).
    The first process works, the others get its numbers. The picture of the mutual information goes to ``folder``
    (default: the Trainer's root folder) / figures and to every logger that takes images; ``trainer.validate``, such as
    that of the best checkpoint behind a training, draws none. Training is not touched.

    Raises:
        VaexError: for an unknown metric, numbers out of range, or a ``model`` that names nothing. What codes do not
            allow (too few images for a vote, NaN) is warned of, and the other metrics count.
    """

    def __init__(
        self,
        model: str = "vae",
        names: Sequence[str] = ("factor_vae", "mig"),
        *,
        every_n_steps: int = 5000,
        codes: int | None = 10_000,
        batch_size: int = 256,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        if every_n_steps < 1 or batch_size < 1:
            raise VaexError(
                "The disentanglement callback needs every_n_steps and batch_size of at least 1, got "
                f"{every_n_steps} and {batch_size}."
            )
        chosen_images(2, codes)
        seeded(seed, 0)
        self.model, self.names, self.every_n_steps = model, named_metrics(names), every_n_steps
        self.codes, self.batch_size, self.seed, self.folder = codes, batch_size, seed, folder
        self._steps, self._measured_at = 0, -1

    def _vae(self, pl_module: pl.LightningModule) -> nn.Module:
        if not self.model:
            return pl_module
        try:
            found = attrgetter(self.model)(pl_module)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Module):
            children = [name for name, _ in pl_module.named_children()]
            raise unknown(f"module to encode with in {type(pl_module).__name__}", self.model, children)
        return found

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model, so that a wrong name ends the run before its first step; say so where factors are missing."""
        self._vae(pl_module)
        self._measured_at = -1
        data = getattr(trainer, "datamodule", None)
        if not has_factors(data):
            name = "Data given as loaders, without a data module," if data is None else type(data).__name__
            rank_zero_warn(f"{name} states no factors, so disentanglement is not measured.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count on from the steps that were made before."""
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where the time has come; optimiser steps are counted over all epochs."""
        before, self._steps = self._steps, trainer.global_step
        if self._steps // self.every_n_steps > before // self.every_n_steps:
            self._monitored(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure at the end of training, where it is known by now: the best checkpoint may be chosen by it."""
        if training_ends(trainer):
            self._monitored(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure at the end of training; nothing can be logged by the module any more."""
        trainer.callback_metrics.update(
            {name: torch.tensor(value) for name, value in self._measure(trainer, pl_module).items()}
        )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what is validated on its own, such as the best checkpoint: metrics.json has the numbers of that."""
        data: Any = getattr(trainer, "datamodule", None)
        if trainer.state.fn != TrainerFn.VALIDATING or not has_factors(data):
            return
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            found, _ = self._measured(trainer, self._vae(pl_module), data)
        found = trainer.strategy.broadcast(found)
        pl_module.log_dict(_keyed(found), logger=False, sync_dist=False)

    def _monitored(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning would send them to the loggers again with each later step; monitors and metrics.json want them here
        pl_module.log_dict(self._measure(trainer, pl_module), logger=False, sync_dist=False)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Measure and log, once a step; return the numbers by their log keys."""
        data: Any = getattr(trainer, "datamodule", None)
        if self._measured_at == trainer.global_step or not has_factors(data):
            return {}
        self._measured_at = trainer.global_step
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            found = self._scores(trainer, self._vae(pl_module), data)
        found = trainer.strategy.broadcast(found)
        logged = _keyed(found)
        for logger in trainer.loggers if logged else ():
            logger.log_metrics(logged, step=logged_step(trainer))
        return logged

    def _measured(self, trainer: pl.Trainer, vae: nn.Module, data: Any) -> tuple[dict[str, float], Codes]:
        table = encoded(vae, data, self.codes, self.seed, self.batch_size)
        found: dict[str, float] = {}
        for name in self.names:
            try:
                found |= SCORES[name](table.codes, table.factors, self.seed)
            except VaexError as error:
                rank_zero_warn(f"{name} is not measured after {trainer.global_step} steps: {error}")
        return found, table

    def _scores(self, trainer: pl.Trainer, vae: nn.Module, data: Any) -> dict[str, float]:
        from vaex.viz import save_png

        done = trainer.global_step
        found, table = self._measured(trainer, vae, data)
        try:
            picture = information_picture(table, self.seed)
        except VaexError as error:
            rank_zero_warn(f"Mutual information is not measured after {done} steps: {error}")
            return found
        folder = Path(self.folder or trainer.default_root_dir)
        save_png(picture, folder / "figures" / f"mutual_information_step{done:07d}.png")
        for logger in trainer.loggers:
            log_picture(logger, "disentanglement/val/mutual_information", picture, logged_step(trainer))
        return found


def _keyed(found: Mapping[str, float]) -> dict[str, float]:
    return {f"disentanglement/val/{name}": value for name, value in found.items()}
