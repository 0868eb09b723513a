"""From a composed config to data module, module, callbacks, loggers and trainer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import WeightAveraging
from omegaconf import DictConfig, OmegaConf

import vaex.data
from vaex.build import in_full, read_checkpoint
from vaex.calibrate import store_calibration
from vaex.checked import call_checked
from vaex.commands.calibrate import fitted
from vaex.commands.disentangling import disentanglement, settings
from vaex.commands.faithful import faithful_settings, faithfulness
from vaex.commands.loader_check import LoaderCheck
from vaex.commands.loggers import closing, keep_until, log_config, log_stages, step_of
from vaex.commands.objective_watch import ObjectiveWatch
from vaex.commands.options import check_time
from vaex.commands.processes import cluster_plugins
from vaex.commands.quieting import quiet
from vaex.commands.record import flat_metrics
from vaex.commands.searching import is_search
from vaex.config import CHECKPOINT_CHOICE
from vaex.errors import VaexError, unknown
from vaex.modules import VAEModule, module_class
from vaex.modules.checkpoint_io import AtomicCheckpointIO
from vaex.runs import LAST, best_checkpoint, stopped_at
from vaex.scores import score_named


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
            raise unknown(
                "data module in the checkpoint", options["_target_"], [f"vaex.data.{n}" for n in vaex.data.__all__]
            )
        options.pop("_target_")
        module = call_checked(f"data module {name}", getattr(vaex.data, name), options)
    else:
        module = instantiate(options, _convert_="all")
    actual = getattr(module, "shape", None)
    if not from_checkpoint and shape is not None and actual is not None and tuple(shape) != tuple(actual):
        raise VaexError(
            f"data.shape is {list(shape)}, but {type(module).__name__} gives {list(actual)}; correct data.shape."
        )
    data: pl.LightningDataModule = module
    return data


def build_module(config: DictConfig) -> VAEModule:
    """Return the LightningModule of the composed config."""
    groups = ("network", "objective", "optim", "schedule", "prior")
    run = {group: portable(config[group]) for group in ("data", "attention", "score", "metrics")}
    network = container(config.network)
    return module_class(network, config.objective)(
        **{group: container(config[group]) for group in groups},
        seed=config.seed,
        compile=config.compile,
        channels_last=config.get("channels_last", False),  # a run from before the key is resumed
        run={**run, "name": config.name},
    )


def build_all(configs: DictConfig | None) -> list[Any]:
    """Return the objects of a config group that holds several (callbacks, logger); null ones are left out.

    So is one without ``_target_``: an experiment sets a key of it, but it was not chosen.
    """
    return [instantiate(item, _convert_="all") for item in (configs or {}).values() if item and "_target_" in item]


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], loggers: list[Any]) -> pl.Trainer:
    """Return the Trainer of the config group ``trainer``, with atomic checkpoints.

    Raises:
        VaexError: when ``max_time`` is no time.
    """
    options = container(config.trainer)
    check_time(options.get("max_time"), "trainer.max_time")
    # Lightning would add its own of both where there is none; nothing of vaex finds what its checkpoint callback writes
    shown, kept = (
        any(isinstance(callback, kind) for callback in callbacks)
        for kind in (pl.callbacks.ProgressBar, pl.callbacks.Checkpoint)
    )
    return pl.Trainer(
        **{"enable_progress_bar": shown, "enable_checkpointing": kept, **options},
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[AtomicCheckpointIO(), *cluster_plugins()],
        default_root_dir=config.paths.run,
    )


@dataclass
class Run:
    """The parts of one run, and what is done with them."""

    config: DictConfig
    data: pl.LightningDataModule
    module: VAEModule
    trainer: pl.Trainer

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether a callback writes checkpoints, and the run is no trial of a few batches, which keeps none."""
        there = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in vars(self.trainer)["callbacks"])
        return there or bool(vars(self.trainer)["fast_dev_run"])

    def fit(self, resume: Path | None = None) -> None:
        """Train, from the checkpoint ``resume`` on where one is given."""
        with closing(self.trainer.loggers, last=False):
            log_config(self.trainer.loggers, container(self.config), "train")
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume, weights_only=True)

    def use_best(self, folder: Path) -> Path | None:
        """Give the module the weights of the best checkpoint; return its file, None where there is none."""
        best = best_checkpoint(folder)
        if best is not None:
            # An averaging callback would put back the weights that it averages
            callbacks: list[pl.Callback] = vars(self.trainer)["callbacks"]
            callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]
            self.module.load_state_dict(read_checkpoint(best)["state_dict"])
        return best

    def calibrate(self, folder: Path) -> None:
        """Calibrate the best weights and keep the result in their checkpoint; the first process works for all.

        What cannot be calibrated is told and not fatal: the training is done, and its test is still to come.
        """
        best = self.use_best(folder)
        calibration: dict[str, Any] = {}
        with closing(self.trainer.loggers, last=False):
            if self.trainer.is_global_zero:
                try:
                    size = getattr(self.data, "eval_batch_size", 64)
                    vae, device = self.module.vae, self.trainer.strategy.root_device
                    held = {} if best is None else in_full(read_checkpoint(best).get("calibration") or {})
                    calibration = fitted(self.config, vae, self.data, size, device, held)
                    if best is not None:
                        twice = best.name != LAST and (best.parent / LAST).is_file()
                        slim = bool(self.config.get("slim_best")) and twice
                        store_calibration(best, calibration, resumable=not slim)
                except VaexError as error:
                    print(f"vaex train: not calibrated: {error}", file=sys.stderr)
            self.module.vae.calibration = self.trainer.strategy.broadcast(calibration)  # the other processes wait here

    def test_best(self, folder: Path) -> tuple[str, dict[str, dict[str, float]]]:
        """Validate and test the best checkpoint; return what was measured and the flat metrics of each stage.

        Without a checkpoint the weights are those of the last step; with ``test=false`` the last validation during
        training is all there is.
        """
        stages = {}
        with closing(self.trainer.loggers):
            if not self.config.test:
                stages["val"] = self._flat("val")
                log_stages(self.trainer.loggers, stages)
                return "last validation", stages
            best = self.use_best(folder)
            for stage, evaluate in (("val", self.trainer.validate), ("test", self.trainer.test)):
                evaluate(self.module, datamodule=self.data, verbose=False)
                stages[stage] = self._flat(stage)
            stages["test"] |= self._beside(folder)
            log_stages(self.trainer.loggers, stages)
        return "last weights" if best is None else "best checkpoint", stages

    def test(self, stage: str = "test") -> dict[str, dict[str, float]]:
        """Test the module as it is; return the flat metrics as those of ``stage``."""
        with closing(self.trainer.loggers):
            log_config(self.trainer.loggers, container(self.config), "evaluate")
            self.trainer.test(self.module, datamodule=self.data, verbose=False)
            stages = {stage: self._flat("test") | self._beside(Path(self.config.paths.run))}
            log_stages(self.trainer.loggers, stages)
        return stages

    def _beside(self, folder: Path) -> dict[str, float]:
        metrics, vae = container(self.config.metrics), self.module.vae.to(self.trainer.strategy.root_device)
        found = disentanglement(metrics, vae, self.data, self.trainer, folder, self.config.seed)
        attention, score = container(self.config.attention), container(self.config.score)
        return found | faithfulness(metrics, vae, self.data, attention, score, self.trainer)

    def _flat(self, stage: str) -> dict[str, float]:
        label = score_named(container(self.config.score)).known_as
        return flat_metrics(stage, self.trainer.callback_metrics, label)


def assemble(config: DictConfig, module: VAEModule | None = None, resume: Path | None = None) -> Run:
    """Build all parts of a run; ``module`` replaces the one of the config.

    Raises:
        VaexError: as the parts do; when the checkpoint ``resume`` or that of ``init`` is damaged or does not fit.
    """
    quiet()
    settings(container(config.metrics))  # a wrong name is told now
    faithful_settings(container(config.metrics))
    pl.seed_everything(config.seed, workers=True, verbose=False)
    stored = HydraConfig.get().runtime.choices.get("data") == CHECKPOINT_CHOICE
    data = build_data(config.data, from_checkpoint=stored)
    module = module or build_module(config)
    if resume is None and config.get("init"):
        module.start_from(read_checkpoint(stopped_at(config.init)), config.init)
    loggers = build_all(config.get("logger"))
    if resume is not None:
        keep_until(loggers, step_of(resume))
    callbacks = build_all(config.get("callbacks"))
    if config.get("test"):
        callbacks.append(LoaderCheck())
    if is_search():
        callbacks.append(ObjectiveWatch(config, data))
    return Run(config, data, module, build_trainer(config, callbacks, loggers))
