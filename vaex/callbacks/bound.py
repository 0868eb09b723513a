"""The bound callback: the importance-weighted bound of log p(x), measured where no training waits for it."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn

from vaex.attention.isolation import original
from vaex.callbacks.models import check_counts, model_at
from vaex.errors import VaexError
from vaex.modules.batches import images_of
from vaex.modules.vae import normal_part
from vaex.networks import VAE
from vaex.objectives.iwae import iwae_bound
from vaex.types import Batch


class ImportanceBound(pl.Callback):
    """Log ``<stage>/iwae_bound``, the mean over images of `iwae_bound` with ``samples`` draws, in nats per image.

    In ``trainer.validate`` and ``trainer.test``, not in the validations of a training. Images labelled anomalous are
    left out, as they are of the ELBO in validation. ``model`` is the attribute path of one of vaex's VAEs.

    Source: Burda, Grosse & Salakhutdinov, ICLR 2016, Eq. 8; they report 5,000 draws.

    Raises:
        VaexError: for fewer than one draw, or a model that is none of vaex's VAEs.
    """

    def __init__(self, model: str = "vae", samples: int = 100) -> None:
        super().__init__()
        check_counts("bound", samples=samples)
        self.model, self.samples = model, samples

    def _measure(self, pl_module: pl.LightningModule, batch: Any, stage: str) -> None:
        model = original(model_at(pl_module, self.model))
        if not isinstance(model, VAE):
            raise VaexError(
                "The importance-weighted bound needs the posterior, likelihood and prior of one of vaex's VAEs, got a "
                f"{type(model).__name__}; leave the bound callback out."
            )
        normal = normal_part(cast("Batch", batch)) if isinstance(batch, dict) else batch
        weight: Any = 0.0  # a float: of whole numbers Lightning rounds the mean over processes down
        value = torch.zeros((), device=pl_module.device)
        if normal is not None:
            images = images_of(normal)
            value, weight = iwae_bound(model, images, self.samples).mean(), float(len(images))
        elif pl_module.trainer.world_size == 1:
            return  # one of several takes part in the average of the others
        pl_module.log(f"{stage}/iwae_bound", value, on_step=False, on_epoch=True, batch_size=weight, sync_dist=True)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the batch outside of a training."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._measure(pl_module, batch, "val")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the batch."""
        self._measure(pl_module, batch, "test")
