"""`VAEModule`: any VAE with one optimiser under Lightning."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vaex.attention.isolation import eager
from vaex.build import build_model, build_objective
from vaex.errors import VaexError
from vaex.modules.agreement import AgreeingModule
from vaex.modules.batches import as_batch
from vaex.modules.dataset_size import check_last_batch, least_images, tell_dataset_size
from vaex.modules.optimisation import build_optimiser, build_schedule
from vaex.modules.plain_values import plain
from vaex.modules.starting import take_moments, take_weights
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.types import Batch, VAEOutput


def step_seed(*parts: int | str) -> int:
    """Return a seed that depends on all ``parts`` (run seed, stage, epoch, batch, rank) and on nothing else."""
    return zlib.crc32(":".join(map(str, parts)).encode())


class VAEModule(AgreeingModule):
    """Train a VAE built from plain dicts (see `vaex.build`), so that its checkpoint rebuilds itself.

    ``network`` is ``{"name": "conv", "shape": [1, 64, 64], "latents": 10, ...}``, ``objective``
    ``{"name": "beta_vae", "beta": 4.0}``, ``optim`` ``{"name": "adam", "lr": 1e-3}``; ``run`` carries whatever else
    an evaluation of the checkpoint needs. Logs ``train/`` and ``val/`` terms in nats per image, unweighted.
    ``channels_last`` lays tensors out pixel by pixel, which convolutions in bf16 are faster with.
    Random draws of a step depend on (``seed``, epoch, batch) alone, so a resumed run repeats them.

    Raises:
        VaexError: for unknown names or options; when the loss stops being finite.
    """

    adversarial = False
    """Whether a discriminator is trained beside the VAE."""

    def __init__(
        self,
        network: Mapping[str, Any],
        objective: Mapping[str, Any] | None = None,
        optim: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        prior: Mapping[str, Any] | None = None,
        seed: int = 0,
        compile: bool = False,  # noqa: A002 - the config key
        channels_last: bool = False,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        config = {
            "network": network,
            "objective": objective or {"name": "beta_vae"},
            "optim": optim or {"name": "adam"},
            "schedule": schedule or {"name": "constant"},
            "prior": prior or {"name": "normal"},
            "seed": seed,
            "compile": compile,
            "channels_last": channels_last,
            "run": run or {},
        }
        self.save_hyperparameters(plain(config), logger=False)  # whoever composed the run logs its config
        # The weights depend on the seed alone, not on what was drawn before
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(step_seed(self.hparams["seed"], "init"))
            self.vae = build_model(self.hparams["network"], self.hparams["prior"])
        if channels_last:
            self.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = build_objective(self.hparams["objective"], self.vae, seed)
        if compile:
            self.vae.compile()
        self._moments: list[dict[str, Any]] = []

    def start_from(self, checkpoint: Mapping[str, Any], source: str) -> None:
        """Begin where the run of ``checkpoint`` stopped: its weights and its optimisers' moments, at step 0.

        Raises:
            VaexError: when networks or optimisers differ from those of this run; ``source`` is named in it.
        """
        self._moments = take_weights(self, checkpoint, source)

    def on_train_start(self) -> None:
        """Give the optimisers the moments of the run that this one starts from, unless it is resumed."""
        check_last_batch(self.objective, self.trainer)
        if self._moments and self.global_step == 0:
            take_moments(self.trainer.optimizers, self._moments)
        self._moments = []

    def forward(self, images: Tensor) -> VAEOutput:
        """Return the VAE's output with z = mean."""
        output: VAEOutput = self.vae(images, sample=False)
        return output

    def _seed(self, stage: str, batch_idx: int) -> None:
        epoch = self.current_epoch if stage == "train" else 0
        torch.manual_seed(step_seed(self.hparams["seed"], stage, epoch, batch_idx, self.global_rank))

    def _terms(self, batch: Batch, step: int = AFTER_TRAINING) -> Terms:
        return self._judged(batch, step)[0]

    def _judged(self, batch: Batch, step: int = AFTER_TRAINING) -> tuple[Terms, VAEOutput]:
        images, keep = batch["image"], self.objective.keep
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        if not keep:
            output = self.vae(images, sample=True)
            return self.objective(images, output, step, self.looked_at(batch)), output
        training = torch.is_grad_enabled()
        with ExitStack() as stack:  # a term of activations differentiates twice, in evaluation once
            stack.enter_context(eager())
            if not training:
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
                images = images.clone()  # inference tensors take part in no graph
                if self.objective.needs:
                    parts: Any = {name: part.clone() for name, part in batch.items() if isinstance(part, Tensor)}
                    batch = parts
            output = self.vae(images, keep=keep, sample=True)
            terms = self.objective(images, output, step, self.looked_at(batch))
        if training:
            return terms, output
        return Terms(terms.total.detach(), {name: value.detach() for name, value in terms.parts.items()}), output

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take from the ``state_dict`` of a checkpoint what is trained beside the VAE: here nothing."""

    def looked_at(self, batch: Batch) -> Batch:
        """Return what the objective sees of a batch; ``clean`` is what its likelihood is of."""
        return batch

    def on_fit_start(self) -> None:
        """Check that the objective is one for the training images, and tell it their number where it asks.

        Raises:
            VaexError: for one that needs another module; for pasted defects that it would take for normal, or for none
                where it learns from them; for another number of images than was given.
        """
        if self.hparams["objective"].get("name") == "factor_vae" and not self.adversarial:
            raise VaexError("objective=factor_vae needs a discriminator: train it with FactorVAEModule.")
        tell_dataset_size(self.objective, self.hparams["objective"], self.trainer)
        pasted = getattr(getattr(self.trainer, "datamodule", None), "pasted", None)
        name = self.hparams["objective"].get("name")
        if pasted and "mask" not in self.objective.needs:
            raise VaexError(
                f"data.pasted={pasted} puts defects into the training images, which objective={name} would learn as "
                "normal; set data.pasted=0, or use objective=synthetic_attention."
            )
        if pasted == 0 and "mask" in self.objective.needs:
            raise VaexError(f"objective={name} learns from images with defects; set data.pasted=2.")

    def _log(self, stage: str, terms: Terms, count: int) -> None:
        values = {f"{stage}/loss": terms.total, **{f"{stage}/{name}": value for name, value in terms.parts.items()}}
        training = stage == "train"
        # A float: of whole numbers Lightning rounds the mean over processes down, and divides the sums by that
        weight: Any = float(count)
        self.log_dict(
            {name: value.detach() for name, value in values.items()},
            on_step=training,
            on_epoch=not training,
            batch_size=weight,
            sync_dist=not training,
        )
        if training:
            self.log("loss", terms.total.detach(), prog_bar=True, logger=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, () in nats per image."""
        batch = as_batch(batch)
        self._seed("train", batch_idx)
        terms = self._terms(batch, self.global_step)
        self.check_finite("loss", terms.total, batch_idx)
        self._log("train", terms, len(batch["image"]))
        return terms.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of one validation batch with a sampled z, an estimate of the ELBO.

        Weights that warm up count in full, so that losses of different steps compare. Images labelled anomalous are
        left out unless the objective learns from them: what is trained on normal images is judged by normal ones. So is
        a batch with a single image of an objective that compares them, but for training in several processes.
        """
        batch = as_batch(batch)
        normal = batch if "mask" in self.objective.needs else normal_part(batch)
        few = normal is None or len(normal["image"]) < least_images(self.objective)
        if few and self.trainer.world_size == 1:
            return
        self._seed("val", batch_idx)
        terms = self._terms(batch if normal is None else normal)
        if normal is None:  # a process without normal images takes part in the average of the others, with no weight
            none = {name: torch.zeros_like(value) for name, value in terms.parts.items()}
            self._log("val", Terms(torch.zeros_like(terms.total), none), 0)
            return
        self.note_validation_loss(terms.total, batch_idx)
        self._log("val", terms, len(normal["image"]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of one test batch with a sampled z, where it holds all that the objective needs."""
        batch = as_batch(batch)
        if any(key not in batch for key in self.objective.needs) or len(batch["image"]) < least_images(self.objective):
            return
        self._seed("test", batch_idx)
        self._log("test", self._terms(batch), len(batch["image"]))

    def predict_step(self, batch: Batch, batch_idx: int) -> VAEOutput:
        """Return the VAE's output of one batch with z = mean."""
        return self(as_batch(batch)["image"])  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        """Return the optimiser and a schedule stepped once per optimiser step."""
        optimiser = build_optimiser(self.vae.parameters(), self.hparams["optim"])
        endless = self.trainer.max_epochs == -1 and self.trainer.max_steps == -1
        if endless and self.hparams["schedule"].get("name") != "constant":
            raise VaexError("A schedule that falls needs an end: set trainer.max_epochs or trainer.max_steps.")
        return self._scheduled(optimiser)

    def _scheduled(self, optimiser: Optimizer) -> dict[str, Any]:
        schedule = build_schedule(optimiser, self.hparams["schedule"], lambda: self.trainer.estimated_stepping_batches)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def normal_part(batch: Batch) -> Batch | None:
    """Return the images of a batch that are not labelled anomalous, None where there are none."""
    labels = batch.get("label")
    if labels is None or not bool(labels.any()):
        return batch
    normal = labels.flatten() == 0
    if not bool(normal.any()):
        return None
    part: Any = {name: value[normal] for name, value in batch.items() if isinstance(value, Tensor)}
    return part  # type: ignore[no-any-return]
