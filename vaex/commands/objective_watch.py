"""A look at what a run of a search measures behind its first validation, hours before its end would tell."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig, OmegaConf

from vaex.callbacks.measures import IMAGE_KEYS
from vaex.coding import has_factors
from vaex.commands.disentangling import settings
from vaex.commands.faithful import faithful_settings
from vaex.commands.record import flat_metrics
from vaex.commands.searching import check_measured
from vaex.metrics.disentanglement.collection import SCORES
from vaex.metrics.evidence import PIXEL_KEYS
from vaex.metrics.faithfulness import MEASURES
from vaex.scores import score_named


class ObjectiveWatch(pl.Callback):
    """Stop a run whose ``optimized_metric`` it does not measure, behind the first validation of the training.

    Raises:
        UnmeasuredError: there, with the nearest names.
    """

    def __init__(self, config: DictConfig, data: pl.LightningDataModule) -> None:
        self.config, self.data = config, data
        self._looked = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look once."""
        if self._looked or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._looked = True
        metrics: Any = OmegaConf.to_container(self.config.metrics, resolve=True)
        score: Any = OmegaConf.to_container(self.config.score, resolve=True)
        found = flat_metrics("val", trainer.callback_metrics, score_named(score).known_as)
        tested, absent = names_of_test(metrics, self.data)
        check_measured(self.config, found, tested, absent)


def names_of_test(metrics: Any, data: Any) -> tuple[list[str], list[str]]:
    """Return the measures that a test adds to those of a validation, and those that would have to be chosen."""
    latents = settings(metrics)[0] if has_factors(data) else []
    faithful = faithful_settings(metrics)
    maps = [] if faithful is None else [*faithful.names, "deletion_to_normal"]
    chosen = [*latents, *(f"faithfulness_{name}" for name in maps)]
    possible = [*SCORES, *(f"faithfulness_{name}" for name in (*MEASURES, "deletion_to_normal"))]
    return [*PIXEL_KEYS, *IMAGE_KEYS, *chosen], [name for name in possible if name not in chosen]
