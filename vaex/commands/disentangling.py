"""Disentanglement at the end of a run: the data's images encoded once, and the chosen metrics of the codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaex.callbacks.pictures import log_picture, logged_step
from vaex.coding import chosen_images, encoded, has_factors
from vaex.errors import VaexError, unknown
from vaex.metrics.disentanglement.collection import SCORES, named_metrics

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import nn

KEYS = ("names", "codes")


def settings(metrics: Mapping[str, Any]) -> tuple[list[str], int | None]:
    """Return the metrics, and how many images are encoded (None: all), of ``metrics.disentanglement`` of a config.

    Without the key nothing is measured.

    Raises:
        VaexError: for an unknown key or metric, or a number of images below 2.
    """
    found = metrics.get("disentanglement") or {}
    for key in found:
        if key not in KEYS:
            raise unknown("key of metrics.disentanglement", str(key), KEYS)
    names, count = named_metrics(found.get("names") or []), found.get("codes")
    chosen_images(2, count)
    return names, count


def disentanglement(
    metrics: Mapping[str, Any], vae: nn.Module, data: Any, trainer: pl.Trainer, folder: Path, seed: int
) -> dict[str, float]:
    """Return the metrics of the codes of ``data``, empty where it states no factors or none is chosen.

    They go to the loggers as ``disentanglement/test/<name>``, the mutual information of latents and factors as a
    picture to them and to ``folder``/figures/mutual_information_test.png. What the codes do not allow is told and not
    fatal: the other metrics count, and a training is done.
    """
    names, count = settings(metrics)
    if not names or not has_factors(data) or not trainer.is_global_zero:
        return {}
    table = encoded(vae, data, count, seed, getattr(data, "eval_batch_size", 256))
    values: dict[str, float] = {}
    for name in names:
        try:
            values |= SCORES[name](table.codes, table.factors, seed)
        except VaexError as error:
            print(f"vaex: {name} is not measured: {error}", file=sys.stderr)
    logged = {f"disentanglement/test/{name}": value for name, value in values.items()}
    for logger in trainer.loggers:
        logger.log_metrics(logged, step=logged_step(trainer))
    if values:
        from vaex.callbacks.disentanglement import information_picture
        from vaex.viz import save_png

        try:
            picture = information_picture(table, seed)
        except VaexError as error:
            print(f"vaex: mutual information is not drawn: {error}", file=sys.stderr)
            return values
        save_png(picture, folder / "figures" / "mutual_information_test.png")
        for logger in trainer.loggers:
            log_picture(logger, "disentanglement/test/mutual_information", picture, logged_step(trainer))
    return values
