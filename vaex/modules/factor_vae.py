"""`FactorVAEModule`: a VAE and its discriminator under Lightning, two optimisers in manual optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from vaex.checked import call_checked
from vaex.errors import VaexError
from vaex.modules.batches import as_batch
from vaex.modules.optimisation import build_optimiser
from vaex.modules.vae import VAEModule, step_seed
from vaex.networks import Discriminator
from vaex.objectives.factor_vae import discriminator_terms, permuted_latents, with_total_correlation
from vaex.objectives.gathering import gathered
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.types import Batch, VAEOutput

OPTIM = {"name": "adam", "lr": 1e-4, "betas": [0.5, 0.9]}
"""The discriminator's optimiser where nothing else is said."""


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return the first and the second half of a batch.

    Raises:
        VaexError: for an odd number of images, or for fewer than four, of which no two codes are left to permute.
    """
    count = len(batch["image"])
    check_even(count, f"got one of {count}")
    parts: Any = [
        {name: value[start : start + count // 2] for name, value in batch.items() if isinstance(value, Tensor)}
        for start in (0, count // 2)
    ]
    return parts[0], parts[1]


def check_even(count: int, found: str) -> None:
    """Raise the error of a batch that makes no two halves of at least two images."""
    if count < 4 or count % 2:
        raise VaexError(
            f"FactorVAE takes batches of an even number of images, 4 or more, and halves them, but {found}; set an "
            "even data.batch_size, and data.drop_last=true."
        )


class FactorVAEModule(VAEModule):
    """Train a VAE by ``{"name": "factor_vae", "gamma": 40.0, "discriminator": {...}}``, otherwise as `VAEModule`.

    A batch is halved: the first half trains the VAE, the codes of the second, encoded without a graph, are permuted
    over the joint batch of all processes. The discriminator sees the codes of the first half once, for the total
    correlation and for its own loss, which reaches no weight of the VAE. Both networks step once a batch, which is one
    step of the run (``max_steps``, schedules, names of checkpoints). ``optim`` is the VAE's optimiser. The trainer's
    ``gradient_clip_val`` clips each network by itself (``gradient_clip_algorithm``: by norm or by value), and its
    ``accumulate_grad_batches`` works. Logs ``total_correlation``, and in training ``discriminator_loss`` and
    ``discriminator_accuracy``.

    Source: Kim & Mnih, "Disentangling by Factorising", ICML 2018, Algorithm 2.

    Raises:
        VaexError: as `VAEModule`; for another objective, latent grids, and odd or too small batches.
    """

    adversarial = True

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
        objective = objective or {"name": "factor_vae"}
        optim = optim or {"name": "adam", "lr": 1e-4}
        if objective.get("name") != "factor_vae":
            raise VaexError(f"FactorVAEModule trains objective=factor_vae, got {objective.get('name')}; use VAEModule.")
        super().__init__(network, objective, optim, schedule, prior, seed, compile, channels_last, run)
        self.automatic_optimization = False
        options = dict(self.hparams["objective"].get("discriminator") or {})
        self._optim: Mapping[str, Any] = options.pop("optim", None) or OPTIM
        options["latents"] = self.vae.latents
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(step_seed(seed, "discriminator"))
            self.discriminator: Discriminator = call_checked("objective.discriminator", Discriminator, options)
        self._trainer_options: tuple[Any, int] | None = None

    def configure_callbacks(self) -> list[Any]:
        """Hide the trainer's clipping and accumulation, which Lightning refuses here, until it has checked them."""
        self._trainer_options = (self.trainer.gradient_clip_val, self.trainer.accumulate_grad_batches)
        self.trainer.gradient_clip_val, self.trainer.accumulate_grad_batches = None, 1
        return []

    def setup(self, stage: str) -> None:
        """Give the trainer its clipping and accumulation back."""
        if self._trainer_options is not None:
            self.trainer.gradient_clip_val, self.trainer.accumulate_grad_batches = self._trainer_options
            self._trainer_options = None

    def on_train_start(self) -> None:
        """Check that every batch of an epoch can be halved, before the first one is.

        Raises:
            VaexError: when one cannot.
        """
        super().on_train_start()
        loader: Any = self.trainer.train_dataloader
        size: Any = getattr(loader, "batch_size", None)
        sampler: Any = getattr(loader, "sampler", None)
        if size is None or not hasattr(sampler, "__len__"):
            return
        check_even(size, f"data.batch_size is {size}")
        rest = len(sampler) % size
        if rest and not loader.drop_last:
            check_even(rest, f"the last batch of an epoch has {rest}")

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take the discriminator's weights from the ``state_dict`` of a checkpoint."""
        prefix = "discriminator."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        self.discriminator.load_state_dict(own)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Update both networks by one batch; return the VAE's loss, () in nats per image, without its graph."""
        self._seed("train", batch_idx)
        first, second = halves(as_batch(batch))
        terms, output = self._judged(first, self.global_step)
        codes = vector_codes(output)
        logits = self.discriminator(codes)  # (B, 2)
        terms = with_total_correlation(terms, logits)
        # After the VAE's own pass: autocast keeps the weights that it cast, with a graph only if the first pass has one
        found = discriminator_terms(logits, self.discriminator(self._permuted(second["image"], batch_idx)))
        parts = {**terms.parts, "discriminator_loss": found.loss, "discriminator_accuracy": found.accuracy}
        self.check_finite("loss", terms.total + found.loss, batch_idx)
        self._log("train", Terms(terms.total, parts), len(first["image"]))
        self._update(terms.total, found.loss, batch_idx)
        return terms.total.detach()

    @torch.no_grad()
    def _permuted(self, images: Tensor, batch_idx: int) -> Tensor:
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(images)
        codes = gathered(posterior.sample())  # (R B, D)
        ranks = len(codes) // len(images)
        # The same permutation in all processes, each of which keeps its rows
        seed = step_seed(self.hparams["seed"], "permutation", self.current_epoch, batch_idx)
        permuted = permuted_latents(codes, torch.Generator().manual_seed(seed))
        return permuted[self.global_rank % ranks :: ranks]

    def _terms(self, batch: Batch, step: int = AFTER_TRAINING) -> Terms:
        terms, output = self._judged(batch, step)
        with torch.no_grad():
            return with_total_correlation(terms, self.discriminator(vector_codes(output).detach()))

    def _update(self, loss: Tensor, discriminator_loss: Tensor, batch_idx: int) -> None:
        every = self.trainer.accumulate_grad_batches
        stepping = (batch_idx + 1) % every == 0 or self.trainer.is_last_batch
        alone = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        outer: AbstractContextManager[Any] = nullcontext() if stepping else alone()
        ours, theirs = list(self.vae.parameters()), list(self.discriminator.parameters())
        with outer:
            # The discriminator first: nothing of the VAE's own graph has to be kept, which compiled code would refuse.
            # DDP is readied once, by the first of the two, and averages the gradients when the second is through.
            self.manual_backward(discriminator_loss / every, inputs=theirs, retain_graph=True)
            with alone():
                self.manual_backward(loss / every, inputs=[p for p in ours if p.requires_grad])
        if stepping:
            self._step(ours, theirs)

    def _step(self, ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
        optimisers: Any = self.optimizers()
        vae, discriminator = optimisers
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        clip = self.trainer.gradient_clip_val
        if clip:
            # The gradients are scaled still; those that overflowed stay infinite or become NaN, and no step is made
            clip = clip if scaler is None else clip * scaler.get_scale()
            by_value = self.trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
            for parameters in (ours, theirs):
                if by_value:
                    clip_each(parameters, clip, scaler is not None)
                else:
                    clip_grad_norm_(parameters, clip)
        # Past Lightning's count of steps, and before the VAE's step, which updates a scaler once for both
        raw = discriminator.optimizer if isinstance(discriminator, LightningOptimizer) else discriminator
        raw.step() if scaler is None else scaler.step(raw)
        vae.step()
        for optimiser in (vae, raw):
            optimiser.zero_grad()
        schedules: Any = self.lr_schedulers()
        for schedule in schedules:
            schedule.step()

    def configure_optimizers(self) -> Any:
        """Return both optimisers, each with the schedule; the VAE's is the first."""
        first = super().configure_optimizers()
        second = build_optimiser(self.discriminator.parameters(), self._optim, "objective.discriminator.optim")
        return [first, self._scheduled(second)]


def clip_each(parameters: list[nn.Parameter], limit: float, scaled: bool) -> None:
    """Clip each entry of the gradients to [-limit, limit]; of ``scaled`` losses an infinite entry becomes NaN.

    As a number within the limit it would hide from the scaler that the step overflowed.
    """
    for parameter in parameters if scaled else ():
        if parameter.grad is not None:
            parameter.grad.masked_fill_(parameter.grad.isinf(), torch.nan)
    clip_grad_value_(parameters, limit)


def vector_codes(output: VAEOutput) -> Tensor:
    """Return the sampled codes (B, D) of a VAE.

    Raises:
        VaexError: for a latent grid.
    """
    if output.z.dim() != 2:
        raise VaexError(
            f"FactorVAE takes codes (B, D), got a latent grid {tuple(output.z.shape)}; choose a network without one."
        )
    return output.z
