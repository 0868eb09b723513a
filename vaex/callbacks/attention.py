"""The attention callback: maps at every validation step, their measures, and a picture every few epochs.

| log key | when | meaning |
|---|---|---|
| attention/<stage>/overlap | from two maps on | mean overlap of the maps of two latents, [0, 1] (see below) |
| attention/<stage>/entropy | always | mean entropy of a map, 1 is uniform, [0, 1] |
| attention/<stage>/active_latents | with a log-variance | latents whose mean KL exceeds 0.01 nats |
| attention/<stage>/pointing_game | with masks | share of maps whose maximum lies in the mask |
| attention/<stage>/energy_inside | with masks | share of a map's sum that lies in the mask |
| localization/test/image_auroc_<score> | with labels | AUROC of one number per image, of tiles the highest |
| localization/test/image_ap_<score> | with labels | average precision of the same |
| localization/test/<measure>_<score> | with masks | what `vaex.metrics.LocalizationMetrics` measures of the score map |
| localization/test/<measure>_<score>/<kind> | with kinds | the same for one kind of defect |
| throughput/attention_share | validation | share of the validation time spent in this callback |
| attention/<stage>/maps, /images | when drawn | pictures; the latter with masks, to wandb |
| attention/test/extremes | test | most and least anomalous images with their maps, to wandb |

<stage> is val or test. The overlap is that of active latents; where fewer than two are active, or the model states no
log-variance to tell, it is that of all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from vaex.attention.isolation import original
from vaex.attention.layers import resolve_layer
from vaex.attention.targets import target_named
from vaex.callbacks.extremes import Extremes, extremes_for, log_extremes
from vaex.callbacks.first_images import FirstImages
from vaex.callbacks.kept import KeptTest
from vaex.callbacks.kept_methods import added_to, further_methods
from vaex.callbacks.measures import ScoreMeasures, named_apart
from vaex.callbacks.models import model_at
from vaex.callbacks.names import check_attention_options
from vaex.callbacks.pictures import Drawing, explanation_figure, log_picture, logged_step, picture_name, save_maps
from vaex.callbacks.strips import log_strips
from vaex.callbacks.throughput import now
from vaex.columns import columns_to_draw
from vaex.errors import VaexError
from vaex.explanation import calibration_of, explain_and_score
from vaex.metrics.maps import MapMetrics
from vaex.modules.batches import entry, group_names, images_of
from vaex.runs import KEPT_TEST
from vaex.scores import Scored, measured_scores, needs_calibration, score_named
from vaex.scores.registry import ScoreLike
from vaex.types import Explanation

OPTIONS = ("latents", "method", "target", "rectify", "reduce", "fuse", "chunk")
"""Options of `latent_attention` that the callback passes on; maps are measured and drawn at the size of the image."""


class Attention(Drawing):
    """Explain images during validation and test through `vaex.explain`, measure the maps and draw them.

    ``model`` is the attribute path from the LightningModule to the VAE or encoder ("" for the module itself), ``layer``
    and ``options`` (`OPTIONS`) go to `vaex.explain`. A validation step explains the first ``images_per_batch`` images
    of the batch, a test step all of them. The first ``figure_images`` images of the first batch are drawn in some
    epochs with the maps of the ``figure_latents`` most active latents, to ``figures/`` below ``folder`` (default: the
    Trainer's root folder) and to every logger that takes images; outside ``fit`` their raw maps go to ``maps/``.
    wandb gets each of them with its mask besides, and of a test the ``table_images`` images of highest and of lowest
    score (0: no table). The test keeps what the report shows, with maps of ``report_methods`` besides.
    ``score`` and ``scores`` (an empty list: none) are measured against labels (1: anomalous) and masks of the test set;
    () for labels that mean something else. Maps and masks are compared at ``resolution`` pixels (None: the images').
    Where ``score`` needs calibration, which follows training, the score maps during ``fit`` are those of the attention.
    Training is not touched: weights, batch-norm statistics and random numbers are those of a run without.

    Raises:
        VaexError: for an unknown option, score, method or target; when ``model`` or ``layer`` names nothing, or the
            batch holds no images.
    """

    def __init__(
        self,
        model: str = "",
        layer: str | Sequence[str] | None = None,
        *,
        score: ScoreLike = "attention",
        scores: Sequence[ScoreLike] = ("reconstruction", "kl", "attention"),
        images_per_batch: int = 16,
        figure_images: int = 6,
        figure_latents: int = 6,
        every_n_epochs: int = 10,
        table_images: int = 8,
        report_methods: Sequence[Any] = ("hires_cam", "layer_cam"),
        resolution: int | None = None,
        folder: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if min(images_per_batch, figure_latents, every_n_epochs) < 1 or min(figure_images, table_images) < 0:
            raise VaexError(
                "The attention callback needs images_per_batch, figure_latents and every_n_epochs of at least 1 and "
                f"figure_images and table_images of 0 or more, got {images_per_batch}, {figure_latents}, "
                f"{every_n_epochs}, {figure_images} and {table_images}."
            )
        self.model, self.layer = model, layer
        self.score, self.scores = score_named(score), measured_scores(score, scores)
        self.images_per_batch, self.figure_images = images_per_batch, figure_images
        self.figure_latents, self.every_n_epochs = figure_latents, every_n_epochs
        self.table_images, self.report_methods = table_images, list(report_methods)
        self.folder, self.options, self.resolution = folder, options, resolution
        own = [name for name in inspect.signature(Attention.__init__).parameters if name not in ("self", "options")]
        further_methods(self.report_methods, None)
        check_attention_options(self.options, own, OPTIONS)
        self._maps = MapMetrics()
        self._measures: ScoreMeasures | None = None
        self._extremes: Extremes | None = None
        self._kept: KeptTest | None = None
        self._first = FirstImages(self.figure_images)
        self._seconds = self._started = 0.0

    # --- what is explained

    def explain(self, pl_module: pl.LightningModule, images: Tensor) -> Explanation:
        """Return the explanation of ``images`` with this callback's model, layer and options."""
        return self._explained(pl_module, images)[0]

    def _explained(
        self, pl_module: pl.LightningModule, images: Tensor, scores: Sequence[ScoreLike] = ()
    ) -> tuple[Explanation, dict[str, Scored]]:
        vae, score = model_at(pl_module, self.model), self.score
        options = self.options
        if pl_module.trainer.state.fn == "fit" and not calibration_of(vae):  # that follows training
            score = score_named("attention") if needs_calibration(score) else score
            if getattr(target_named(options.get("target", "mean")), "calibrated", False):
                options = {**options, "target": "mean"}
        return explain_and_score(vae, images, self.layer, score=score, scores=scores, **options)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find model and layer, so that a wrong name ends the run before its first epoch."""
        self._first = FirstImages(self.figure_images)  # not those of an earlier fit
        vae = original(model_at(pl_module, self.model))
        for name in [self.layer] if isinstance(self.layer, str) else self.layer or ():
            resolve_layer(vae, name)

    # --- validation

    def _begin(self, pl_module: pl.LightningModule) -> None:
        self._maps = MapMetrics().to(pl_module.device)
        self._first = FirstImages(self.figure_images)
        self._extremes = self._kept = None
        self._seconds, self._started = 0.0, now(pl_module.device)

    def _take(
        self, pl_module: pl.LightningModule, batch: Any, count: int | None, scores: Sequence[ScoreLike] = ()
    ) -> dict[str, Scored]:
        started = now(pl_module.device)
        images, mask = images_of(batch)[:count], entry(batch, "mask")
        explanation, scored = self._explained(pl_module, images, scores)
        kl = explanation.kl
        if kl is not None and kl.shape[1] != explanation.mean.shape[1]:
            kl = None  # of a prior that does not factorise over latents
        self._maps.update(explanation.maps, kl, None if mask is None else mask[:count])
        self._first.update(images_of(batch), mask, entry(batch, "label") if self.scores else None)
        if self._extremes is not None:
            self._extremes.update(batch, explanation, self._columns)
        if self._kept is not None:
            self._kept.take(batch, explanation, scored)
        self._seconds += now(pl_module.device) - started
        return scored

    def _columns(self, explanation: Explanation) -> tuple[list[int], list[str]]:
        target, latents = self.options.get("target", "mean"), self.options.get("latents")
        return columns_to_draw(explanation, self.figure_latents, target, latents)

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
        """Explain the first images of the batch."""
        self._take(pl_module, batch, self.images_per_batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the measures; draw the picture every ``every_n_epochs`` epochs and after the last one."""
        started = now(pl_module.device)
        self._log(pl_module, "attention/val", self._maps.compute())
        self._draw_if_due(trainer, pl_module)
        self._seconds += now(pl_module.device) - started
        if not trainer.sanity_checking:
            share = self._seconds / max(now(pl_module.device) - self._started, 1e-9)
            pl_module.log("throughput/attention_share", share, sync_dist=True)

    # --- test

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start new measures of maps and, where labels come, of scores."""
        self._begin(pl_module)
        self._measures = ScoreMeasures(named_apart(self.scores), self.resolution, pl_module.device)
        self._extremes = extremes_for(trainer, self.table_images)
        of = self.score.known_as, self.options, bool(self.scores), group_names(trainer)
        self._kept = KeptTest(*of, self.report_methods)

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
        labels, masks, kinds, whole = (entry(batch, key) for key in ("label", "mask", "group", "image_of"))
        scored = self._take(pl_module, batch, None, () if labels is None else self.scores)
        if labels is not None and scored and self._measures is not None:
            self._measures.update(scored, labels, masks, kinds, group_names(trainer), whole)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the measures and draw the first normal and anomalous test images."""
        self._log(pl_module, "attention/test", self._maps.compute())
        if self._measures is not None:
            self._log(pl_module, "localization/test", self._measures.compute())
        log_extremes(self._extremes, "attention/test/extremes", trainer)
        self._draw(trainer, pl_module, "test")
        if self._kept is not None and trainer.is_global_zero:
            added = added_to(model_at(pl_module, self.model), pl_module.device, self.score, self.layer, self.options)
            self._kept.write(Path(self.folder or trainer.default_root_dir) / KEPT_TEST, *added)

    # --- what comes out

    @staticmethod
    def _log(pl_module: pl.LightningModule, section: str, values: Mapping[str, Tensor]) -> None:
        # The metrics have merged all processes, so every one logs the same; a monitor needs it on each
        pl_module.log_dict({f"{section}/{name}": value.float() for name, value in values.items()}, sync_dist=True)

    @rank_zero_only
    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if (shown := self._first.chosen()) is None:
            return
        from vaex.viz import figure_to_array, save_png  # matplotlib only when drawn

        images, mask = shown
        explanation = self.explain(pl_module, images)
        columns, titles = self._columns(explanation)
        folder, fitting = Path(self.folder or trainer.default_root_dir), trainer.state.fn == "fit"
        name = picture_name(trainer, f"attention_{stage}")
        picture = figure_to_array(explanation_figure(images, explanation, mask, columns, titles))
        save_png(picture, folder / "figures" / f"{name}.png")
        if not fitting:
            save_maps(folder / "maps" / f"{name}.npz", images, explanation)
        for logger in trainer.loggers:
            log_picture(logger, f"attention/{stage}/maps", picture, logged_step(trainer))
        log_strips(trainer, f"attention/{stage}/images", images, explanation, mask, columns, titles)
