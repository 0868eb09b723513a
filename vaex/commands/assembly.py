"""From a composed config to data module, module, callbacks, loggers and trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import vaex.data
from vaex.build import call_checked
from vaex.errors import VaexError, unknown
from vaex.modules import VAEModule
from vaex.modules.checkpoint_io import AtomicCheckpointIO


def container(config: Any) -> Any:
    """Return a config as plain values, all interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def portable(config: DictConfig) -> Any:
    """Return a config as plain values in which ``${paths.*}`` stays, to be resolved where it is used next."""

    def walk(raw: Any, resolved: Any) -> Any:
        if isinstance(raw, Mapping):
            return {key: walk(item, resolved[key]) for key, item in raw.items()}
        if isinstance(raw, str) and raw.startswith("${paths."):
            return raw
        return resolved

    return walk(OmegaConf.to_container(config, resolve=False), container(config))


def quiet() -> None:
    """Silence what a user can do nothing about: Lightning's tips, device lists and worker advice."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*GPU available but not used.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*litlogger.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)


def build_data(config: DictConfig, from_checkpoint: bool = False) -> pl.LightningDataModule:
    """Return the data module of the config group ``data``; ``shape`` in it is checked against the module's.

    A config out of a checkpoint is input: only vaex's own data modules are built from it.

    Raises:
        VaexError: for another class out of a checkpoint, or a shape that the data does not have.
    """
    options = container(config)
    if "_target_" not in options:
        raise VaexError("The config names no data: this checkpoint stores none; add data=sprites, data=mnist ...")
    shape = options.pop("shape", None)
    prefix, _, name = options["_target_"].rpartition(".")
    if prefix == "vaex.data" or from_checkpoint:
        if prefix != "vaex.data" or name not in vaex.data.__all__:
            raise unknown("data module in the checkpoint", options["_target_"], [f"vaex.data.{n}" for n in vaex.data.__all__])
        options.pop("_target_")
        module = call_checked(f"data module {name}", getattr(vaex.data, name), options)
    else:
        module = instantiate(options, _convert_="all")
    actual = getattr(module, "shape", None)
    if shape is not None and actual is not None and tuple(shape) != tuple(actual):
        raise VaexError(f"data.shape is {list(shape)}, but {type(module).__name__} gives {list(actual)}; correct data.shape.")
    data: pl.LightningDataModule = module
    return data


def build_module(config: DictConfig) -> VAEModule:
    """Return the LightningModule of the composed config."""
    groups = ("network", "objective", "optim", "schedule", "prior")
    run = {group: portable(config[group]) for group in ("data", "attention", "score", "metrics")}
    return VAEModule(
        **{group: container(config[group]) for group in groups},
        seed=config.seed,
        compile=config.compile,
        run={**run, "name": config.name},
    )


def build_all(configs: DictConfig | None) -> list[Any]:
    """Return the objects of a config group that holds several (callbacks, logger); null ones are left out."""
    return [instantiate(item, _convert_="all") for item in (configs or {}).values() if item]


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], loggers: list[Any]) -> pl.Trainer:
    """Return the Trainer of the config group ``trainer``, with atomic checkpoints."""
    options = {key: value for key, value in container(config.trainer).items() if key != "_target_"}
    return pl.Trainer(
        **options,
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=config.paths.run,
    )
