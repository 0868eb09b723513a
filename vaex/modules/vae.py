"""`VAEModule`: any VAE with one optimiser under Lightning."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vaex.build import build_model, build_objective
from vaex.errors import VaexError
from vaex.modules.optimisation import build_optimiser, build_schedule
from vaex.objectives import Terms
from vaex.types import Batch, VAEOutput


def step_seed(*parts: int | str) -> int:
    """Return a seed that depends on all ``parts`` (run seed, stage, epoch, batch, rank) and on nothing else."""
    return zlib.crc32(":".join(map(str, parts)).encode())


class VAEModule(pl.LightningModule):
    """Train a VAE built from plain dicts (see `vaex.build`), so that its checkpoint rebuilds itself.

    ``network`` is ``{"name": "conv", "shape": [1, 64, 64], "latents": 10, ...}``, ``objective``
    ``{"name": "beta_vae", "beta": 4.0}``, ``optim`` ``{"name": "adam", "lr": 1e-3}``; ``run`` carries whatever else
    an evaluation of the checkpoint needs. Logs ``train/`` and ``val/`` terms in nats per image, unweighted.
    Random draws of a step depend on (``seed``, epoch, batch) alone, so a resumed run repeats them.

    Raises:
        VaexError: for unknown names or options; when the loss stops being finite.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        objective: Mapping[str, Any] | None = None,
        optim: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        prior: Mapping[str, Any] | None = None,
        seed: int = 0,
        compile: bool = False,  # noqa: A002 - the config key
        run: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {
                "network": plain(network),
                "objective": plain(objective or {"name": "beta_vae"}),
                "optim": plain(optim or {"name": "adam"}),
                "schedule": plain(schedule or {"name": "constant"}),
                "prior": plain(prior or {"name": "normal"}),
                "seed": seed,
                "compile": compile,
                "run": plain(run or {}),
            }
        )
        # The weights depend on the seed alone, not on what was drawn before
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, "init"))
            self.vae = build_model(self.hparams["network"], self.hparams["prior"])
        self.objective = build_objective(self.hparams["objective"])
        if compile:
            self.vae.compile()

    def forward(self, images: Tensor) -> VAEOutput:
        """Return the VAE's output with z = mean."""
        output: VAEOutput = self.vae(images, sample=False)
        return output

    def _seed(self, stage: str, batch_idx: int) -> None:
        epoch = self.current_epoch if stage == "train" else 0
        torch.manual_seed(step_seed(self.hparams["seed"], stage, epoch, batch_idx, self.global_rank))

    def _terms(self, batch: Batch) -> Terms:
        output = self.vae(batch["image"], keep=self.objective.keep, sample=True)
        return self.objective(batch["image"], output, self.global_step)

    def _log(self, stage: str, terms: Terms, count: int) -> None:
        values = {f"{stage}/loss": terms.total, **{f"{stage}/{name}": value for name, value in terms.parts.items()}}
        training = stage == "train"
        self.log_dict(
            {name: value.detach() for name, value in values.items()},
            on_step=training,
            on_epoch=not training,
            batch_size=count,
            sync_dist=not training,
        )
        if training:
            self.log("loss", terms.total.detach(), prog_bar=True, logger=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, () in nats per image."""
        self._seed("train", batch_idx)
        terms = self._terms(batch)
        if not torch.isfinite(terms.total):
            raise VaexError(
                f"The loss is {terms.total.item()} at step {self.global_step} (epoch {self.current_epoch}, batch {batch_idx}): "
                "training stops and the last checkpoint is kept; lower optim.lr, set trainer.gradient_clip_val, or check "
                "the images for NaN."
            )
        self._log("train", terms, len(batch["image"]))
        return terms.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of one validation batch with a sampled z, an estimate of the ELBO."""
        self._seed("val", batch_idx)
        self._log("val", self._terms(batch), len(batch["image"]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of one test batch with a sampled z."""
        self._seed("test", batch_idx)
        self._log("test", self._terms(batch), len(batch["image"]))

    def configure_optimizers(self) -> Any:
        """Return the optimiser and a schedule stepped once per optimiser step."""
        optimiser = build_optimiser(self.vae.parameters(), self.hparams["optim"])
        total = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule(optimiser, self.hparams["schedule"], total)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def plain(value: Any) -> Any:
    """Return ``value`` with mappings as dicts and sequences as lists, all the way down, as checkpoints need it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListConfig":
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise VaexError(f"A config holds plain values only (text, numbers, lists, mappings), got {type(value).__name__}.")
