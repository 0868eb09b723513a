"""The latents callback: what each latent carries, and how much their attention maps overlap.

| log key | meaning |
|---|---|
| latents/<stage>/active_units | latents whose posterior mean has a variance over images above ``threshold`` |
| latents/<stage>/kl/<latent> | mean KL of a latent, nats |
| latents/<stage>/variance/<latent> | variance of its posterior mean over images |
| latents/<stage>/map_overlap | mean overlap (Eq. 5) of the maps of every two latents over ``overlap_images``, [0, 1] |
| latents/<stage>/map_overlap_filled | the same of the pairs of which neither map is empty |
| latents/<stage>/map_empty | share of the maps with nothing above 0, [0, 1] |

<stage> is val or test.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from vaex.callbacks.models import check_counts, check_options, model_at
from vaex.callbacks.traversal import OPTIONS
from vaex.errors import VaexError
from vaex.explanation import evidence_of, explain
from vaex.metrics.latents import LatentMetrics
from vaex.metrics.overlap import filled_maps, pairwise_overlap
from vaex.modules.batches import images_of


class Latents(pl.Callback):
    """Measure the latents over all validation and test images, and the overlap of their maps over some.

    Active units are those of Burda et al. (ICLR 2016, section 5.2): variance of the posterior mean above ``threshold``.
    The overlap is that of `vaex.metrics.mean_overlap`, of all pairs of latents whether active or not, in the first
    ``overlap_images`` images of each process (0: not measured); ``options`` (`OPTIONS`) are those of their maps. A map
    with nothing above 0 overlaps none, so the share of such maps stands beside it. ``model`` as in
    `vaex.callbacks.Attention`. Training is not touched.

    Source: Liu et al., CVPR 2020, Eq. 5 for the overlap.

    Raises:
        VaexError: for an option out of range or unknown, or when ``model`` names nothing.
    """

    def __init__(self, model: str = "", *, threshold: float = 0.01, overlap_images: int = 64, **options: Any) -> None:
        super().__init__()
        check_options(options, ["model", "threshold", "overlap_images"], OPTIONS, "latents")
        if overlap_images:
            check_counts("latents", overlap_images=overlap_images)
        self.model, self.threshold, self.overlap_images, self.options = model, threshold, overlap_images, options
        self._metrics = LatentMetrics(threshold)
        self._maps: dict[str, MeanMetric] = {}
        self._left = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model, so that a wrong name ends the run before its first epoch."""
        model_at(pl_module, self.model)

    def _begin(self, pl_module: pl.LightningModule) -> None:
        self._metrics = LatentMetrics(self.threshold).to(pl_module.device)
        names = ("map_overlap", "map_overlap_filled", "map_empty")
        self._maps = {name: MeanMetric(nan_strategy="disable").to(pl_module.device) for name in names}
        self._left = self.overlap_images

    def _take(self, pl_module: pl.LightningModule, batch: Any) -> None:
        images, model = images_of(batch), model_at(pl_module, self.model)
        evidence, mean, _ = evidence_of(model, images, reads=())
        if mean.dim() not in (2, 4):
            raise VaexError(f"The latents callback needs codes (B, D) or (B, D, h, w), got {tuple(mean.shape)}.")
        kl = evidence.kl if evidence.kl is not None and evidence.kl.shape == mean.shape[:2] else None
        self._metrics.update(mean, kl)
        count = min(self._left, len(images))
        if count and mean.shape[1] > 1:
            maps = explain(model, images[:count], **{"layer": None, **self.options}).maps
            self._compare(pairwise_overlap(maps).to(pl_module.device))
            self._left -= count

    def _compare(self, overlaps: Tensor) -> None:
        """Take in the overlaps (B, T, T) of the maps of a batch."""
        rows, columns = torch.triu_indices(overlaps.shape[1], overlaps.shape[2], offset=1, device=overlaps.device)
        pairs, filled = overlaps[:, rows, columns], filled_maps(overlaps)
        self._maps["map_overlap"].update(pairs)
        self._maps["map_overlap_filled"].update(pairs[filled[:, rows] & filled[:, columns]])
        self._maps["map_empty"].update((~filled).float())

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        # The metrics have merged all processes, so every one logs the same
        found = self._metrics.compute()
        values = {"active_units": found["active_units"]} if found else {}
        for name in ("kl", "variance"):
            each: Tensor = found.get(name, torch.empty(0))
            values |= {f"{name}/{latent}": value for latent, value in enumerate(each)}
        if self.overlap_images:
            means = {name: metric.compute() for name, metric in self._maps.items()}
            if self._maps["map_overlap"].update_called:  # without a pair of two filled maps their mean is NaN
                values |= {name: mean for name, mean in means.items() if name == "map_overlap" or not mean.isnan()}
        section = {f"latents/{stage}/{name}": value.to(pl_module.device) for name, value in values.items()}
        pl_module.log_dict(section, sync_dist=True)

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
        """Measure the batch."""
        self._take(pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the measures."""
        self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start new measures."""
        self._begin(pl_module)

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
        self._take(pl_module, batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the measures."""
        self._log(pl_module, "test")
