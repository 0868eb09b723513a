"""How many images objectives ask for: of the data set, for densities estimated from a batch, and of a batch."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import lightning.pytorch as pl

from vaex.errors import VaexError
from vaex.objectives.attention import AttentionDisentanglement
from vaex.objectives.beta_tcvae import BetaTCVAE
from vaex.objectives.gathering import processes
from vaex.objectives.terms import Objective


def training_images(trainer: pl.Trainer) -> int | None:
    """Return how many images ``trainer`` is about to train on; None where nobody knows, as of a stream."""
    data: Any = getattr(trainer, "datamodule", None)
    dataset = getattr(data, "train_set", None)
    if dataset is None:
        source = getattr(trainer.fit_loop, "_data_source", None)  # a loader that was given to fit, not yet set up
        instance = getattr(source, "instance", None)
        loader = instance.train_dataloader() if isinstance(instance, pl.LightningDataModule) else instance
        dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def tell_dataset_size(objective: Objective, options: dict[str, Any], trainer: pl.Trainer) -> None:
    """Give ``objective`` the number of training images where it needs one, and note it in its config ``options``.

    Raises:
        VaexError: when the number cannot be found, or is another than the config has.
    """
    inner = objective.inner if isinstance(objective, AttentionDisentanglement) else objective
    if not isinstance(inner, BetaTCVAE):
        return
    found = training_images(trainer)
    if found is None and inner.dataset_size is None:
        raise VaexError(
            f"objective={options.get('name')} needs the number of training images, which this data does not tell; set "
            "objective.dataset_size."
        )
    if found is not None and inner.dataset_size not in (None, found):
        raise VaexError(
            f"objective.dataset_size is {inner.dataset_size}, but there are {found} training images; correct it, or "
            "leave it null."
        )
    if found is not None:
        inner.dataset_size = options["dataset_size"] = found


def least_images(objective: Objective) -> int:
    """Return how many images of a batch ``objective`` takes at least: 2 where it compares them, else 1."""
    inner = objective.inner if isinstance(objective, AttentionDisentanglement) else objective
    return int(getattr(inner, "least", 1))


def check_last_batch(objective: Objective, trainer: pl.Trainer) -> None:
    """Check, before the first step, that no batch of an epoch has fewer images than ``objective`` takes.

    Raises:
        VaexError: when one has; where the loader does not tell, the step does.
    """
    loader: Any = trainer.train_dataloader
    size: Any = getattr(loader, "batch_size", None)
    sampler: Any = getattr(loader, "sampler", None)
    if size is None or not isinstance(sampler, Sized):
        return
    rest = 0 if loader.drop_last else len(sampler) % size
    for count in (size, rest):
        if 0 < count * processes() < least_images(objective):
            raise VaexError(
                f"This objective compares the images of a batch, but one of each epoch has {count}: set another "
                "data.batch_size, or data.drop_last=true."
            )
