"""``vaex evaluate``: test a checkpoint with its own data and attention, or others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vaex.commands.launch import checkpoint_choices, launch, value_of
from vaex.config import CHECKPOINT_CHOICE
from vaex.errors import VaexError


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    with checkpoint_choices(value_of(arguments, "ckpt")) as choices:
        launch("evaluate", evaluate, [*arguments, *choices])


def evaluate(config: DictConfig) -> None:
    """Test the checkpoint on all images and write metrics.json and pictures."""
    if not config.ckpt:
        raise VaexError("Name a checkpoint: vaex evaluate ckpt=RUN_FOLDER, or ckpt=FILE.ckpt.")
    import lightning.pytorch as pl  # noqa: PLC0415

    from vaex.build import load  # noqa: PLC0415
    from vaex.commands import assembly  # noqa: PLC0415
    from vaex.commands.record import RunRecord, flat_metrics, write_metrics  # noqa: PLC0415
    from vaex.commands.train import report  # noqa: PLC0415
    from vaex.modules import VAEModule  # noqa: PLC0415

    assembly.quiet()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(config.paths.run)
    model = load(config.ckpt)
    stored = HydraConfig.get().runtime.choices.get("data") == CHECKPOINT_CHOICE
    data = assembly.build_data(config.data, from_checkpoint=stored)
    module = VAEModule(**model.config)
    module.vae.load_state_dict(model.state_dict())
    if config.random_weights:
        module = VAEModule(**{**model.config, "seed": config.seed})
    loggers = assembly.build_all(config.logger)
    trainer = assembly.build_trainer(config, assembly.build_all(config.callbacks), loggers)
    data.prepare_data()
    record = RunRecord(folder, " ".join(["vaex", *sys.argv[1:]]), config.seed, data)
    trainer.test(module, datamodule=data, verbose=False)
    stages = {"test": flat_metrics("test", trainer.callback_metrics, config.score.name)}
    write_metrics(folder, **stages)
    record.update("finished", checkpoint=str(config.ckpt))
    report(folder, stages)
