"""The attention callback: maps at every validation step, their measures, and one picture per epoch.

| log key | stage | meaning |
|---|---|---|
| attention/<stage>/overlap | val, test | mean overlap of the maps of two latents, [0, 1] |
| attention/<stage>/entropy | val, test | mean entropy of a map, 1 is uniform, [0, 1] |
| attention/<stage>/active_latents | val, test | latents whose mean KL exceeds 0.01 nats |
| attention/<stage>/pointing_game | with masks | share of maps whose maximum lies in the mask |
| attention/<stage>/energy_inside | with masks | share of a map's sum that lies in the mask |
| localization/test/image_auroc_<score> | with labels | AUROC of one number per image |
| localization/test/image_ap_<score> | with labels | average precision of the same |
| throughput/attention_share | val | share of the validation time spent in this callback |
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from vaex.errors import VaexError
from vaex.explanation import explain
from vaex.metrics.detection import DetectionMetrics
from vaex.metrics.maps import MapMetrics
from vaex.runs import write_atomic
from vaex.scores.image import Evidence, score_images
from vaex.types import Explanation


def images_of(batch: Any) -> Tensor:
    """Return the images in a batch: the tensor itself, its ``image`` entry, or the first of a tuple.

    Raises:
        VaexError: when there are none.
    """
    if isinstance(batch, Mapping):
        batch = batch.get("image", batch.get("images", batch.get("data")))
    elif isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.dim() != 4:
        raise VaexError(
            "The attention callback found no images (B, C, H, W) in the batch: expected a tensor, a tuple that starts "
            "with one, or a mapping with the key 'image'."
        )
    return batch


class Attention(pl.Callback):
    """Explain images during validation and test through `vaex.explain`, measure the maps and draw them.

    ``model`` is the attribute path from the LightningModule to the VAE or encoder ("" for the module itself), ``layer``
    and ``options`` go to `vaex.explain`. A validation step explains the first ``images_per_batch`` images of the batch,
    a test step all of them. The first ``figure_images`` images of the first validation batch are drawn once per epoch
    with the maps of the ``figure_latents`` most active latents, to ``figures/`` below ``folder`` (default: the Trainer's
    root folder) and to every logger that takes images; outside ``fit`` their raw maps go to ``maps/``. ``scores`` are measured against the labels of the test set.

    Raises:
        VaexError: when ``model`` names nothing, or the batch holds no images.
    """

    def __init__(
        self,
        model: str = "",
        layer: str | None = None,
        *,
        score: str = "attention",
        scores: Sequence[str] = ("reconstruction", "kl", "attention"),
        images_per_batch: int = 16,
        figure_images: int = 6,
        figure_latents: int = 6,
        every_n_epochs: int = 1,
        folder: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if images_per_batch < 1 or figure_images < 0 or figure_latents < 1 or every_n_epochs < 1:
            raise VaexError(
                "The attention callback needs images_per_batch, figure_latents and every_n_epochs of at least 1 and "
                f"figure_images of 0 or more, got {images_per_batch}, {figure_latents}, {every_n_epochs}, {figure_images}."
            )
        self.model, self.layer, self.score, self.scores = model, layer, score, list(scores)
        self.images_per_batch, self.figure_images = images_per_batch, figure_images
        self.figure_latents, self.every_n_epochs = figure_latents, every_n_epochs
        self.folder = folder
        self.options = options
        self._fixed: tuple[Tensor, Tensor | None] | None = None
        self._seconds = 0.0
        self._started = 0.0

    # --- what is explained

    def _vae(self, pl_module: pl.LightningModule) -> nn.Module:
        if not self.model:
            return pl_module
        try:
            found = attrgetter(self.model)(pl_module)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Module):
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise VaexError(
                f"{type(pl_module).__name__} has no module '{self.model}' to explain; its children are: {children}."
            )
        return found

    def explain(self, pl_module: pl.LightningModule, images: Tensor) -> Explanation:
        """Return the explanation of ``images`` with this callback's model, layer and options."""
        return explain(self._vae(pl_module), images, self.layer, score=self.score, **self.options)

    # --- validation

    def _begin(self, pl_module: pl.LightningModule) -> None:
        self._maps = MapMetrics().to(pl_module.device)
        self._seconds, self._started = 0.0, time.perf_counter()

    def _take(self, pl_module: pl.LightningModule, batch: Any, count: int | None) -> Explanation:
        started = time.perf_counter()
        images = images_of(batch)[:count]
        mask = batch.get("mask") if isinstance(batch, Mapping) else None
        explanation = self.explain(pl_module, images)
        self._maps.update(explanation.maps, explanation.kl, None if mask is None else mask[:count])
        self._seconds += time.perf_counter() - started
        return explanation

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start new measures."""
        self._begin(pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the first images of the batch; remember those of the first batch for the picture."""
        self._take(pl_module, batch, self.images_per_batch)
        if batch_idx == 0 and dataloader_idx == 0:
            mask = batch.get("mask") if isinstance(batch, Mapping) else None
            count = self.figure_images
            self._fixed = (images_of(batch)[:count].detach(), None if mask is None else mask[:count].detach())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the measures; draw the picture every ``every_n_epochs`` epochs."""
        started = time.perf_counter()
        self._log(pl_module, "attention/val", self._maps.compute())
        due = trainer.current_epoch % self.every_n_epochs == 0 and not trainer.sanity_checking
        if due and self.figure_images and self._fixed is not None:
            self._draw(trainer, pl_module, "val", *self._fixed)
        self._seconds += time.perf_counter() - started
        if not trainer.sanity_checking:
            share = self._seconds / max(time.perf_counter() - self._started, 1e-9)
            pl_module.log("throughput/attention_share", share, rank_zero_only=True)

    # --- test

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start new measures of maps and, where labels come, of scores."""
        self._begin(pl_module)
        self._detection: DetectionMetrics | None = None
        self._fixed = None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain every image of the batch and score it against its label."""
        explanation = self._take(pl_module, batch, None)
        labels = batch.get("label") if isinstance(batch, Mapping) else None
        if labels is not None:
            if self._detection is None:
                self._detection = DetectionMetrics(self._possible_scores(explanation)).to(pl_module.device)
            images = images_of(batch).float()
            evidence = Evidence(images, explanation.maps, explanation.reconstruction, explanation.kl)
            self._detection.update({name: score_images(name, evidence).score for name in self._detection.names}, labels)
        if batch_idx == 0 and dataloader_idx == 0:
            mask = batch.get("mask") if isinstance(batch, Mapping) else None
            count = self.figure_images
            self._fixed = (images_of(batch)[:count].detach(), None if mask is None else mask[:count].detach())

    def _possible_scores(self, explanation: Explanation) -> list[str]:
        absent = {"reconstruction": explanation.reconstruction is None, "kl": explanation.kl is None}
        return [name for name in self.scores if not absent.get(name, False)]

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the measures and draw the first test images."""
        self._log(pl_module, "attention/test", self._maps.compute())
        if self._detection is not None:
            self._log(pl_module, "localization/test", self._detection.compute())
        if self.figure_images and self._fixed is not None:
            self._draw(trainer, pl_module, "test", *self._fixed)

    # --- what comes out

    @staticmethod
    def _log(pl_module: pl.LightningModule, section: str, values: Mapping[str, Tensor]) -> None:
        # the metrics have merged all processes already
        pl_module.log_dict({f"{section}/{name}": value.float() for name, value in values.items()}, rank_zero_only=True)

    @rank_zero_only
    def _draw(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str, images: Tensor, mask: Tensor | None
    ) -> None:
        from vaex.viz import attention_figure, figure_to_array, save_png  # noqa: PLC0415 - matplotlib only when drawn

        explanation = self.explain(pl_module, images)
        figure = explanation_figure(attention_figure, images, explanation, mask, self.figure_latents)
        folder = Path(self.folder or trainer.default_root_dir)
        fitting = trainer.state.fn == "fit"
        name = f"attention_{stage}" + (f"_epoch{trainer.current_epoch:04d}" if fitting else "")
        save_png(figure, folder / "figures" / f"{name}.png")
        if not fitting:
            save_maps(folder / "maps" / f"{name}.npz", images, explanation)
        for logger in trainer.loggers:
            log_picture(logger, f"attention/{stage}/maps", figure_to_array(figure), trainer.global_step)


def explanation_figure(
    draw: Any, images: Tensor, explanation: Explanation, mask: Tensor | None, count: int
) -> Any:
    """Draw rows of image, reconstruction and the maps of the ``count`` latents of highest mean KL, labelled so."""
    latents = range(explanation.maps.shape[1])
    kl = explanation.kl
    if kl is not None and kl.shape[1] == len(latents):
        mean_kl = kl.flatten(2).sum(2).mean(0) if kl.dim() > 2 else kl.mean(0)
        order = mean_kl.argsort(descending=True)[:count].tolist()
        titles = [f"z{i}  KL {mean_kl[i]:.2f} nats" for i in order]
    else:
        order = list(latents)[:count]
        titles = [f"z{i}" for i in order] if len(latents) > 1 else ["total"]
    arrays = [None if t is None else t.float().cpu().numpy() for t in (explanation.reconstruction, mask)]
    return draw(
        images.float().cpu().numpy(), arrays[0], explanation.maps[:, order].cpu().numpy(), titles=titles, masks=arrays[1]
    )


def save_maps(path: Path, images: Tensor, explanation: Explanation) -> None:
    """Write images, maps, score map, score, code and KL as arrays of one .npz, atomically."""
    fields = {"images": images, **{k: v for k, v in explanation._asdict().items() if v is not None}}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: value.float().cpu().numpy() for name, value in fields.items()})
    write_atomic(path, buffer.getvalue())


def log_picture(logger: Any, key: str, picture: Any, step: int) -> None:
    """Send an RGB picture (H, W, 3) uint8 to a logger that takes images (wandb, tensorboard); others are left alone."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=key, images=[picture], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(key, torch.from_numpy(picture.copy()), step, dataformats="HWC")
