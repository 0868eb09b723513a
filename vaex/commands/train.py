"""``vaex train``: compose, check, fit, test."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import launch, quoted, value_of
from vaex.config import check
from vaex.errors import VaexError
from vaex.runs import CHECKPOINTS, LAST, best_checkpoint


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    arguments = list(arguments)
    if folder := value_of(arguments, "resume"):
        arguments = resume_arguments(Path(folder), arguments)
    launch("train", train, arguments)


def resume_arguments(folder: Path, arguments: Sequence[str]) -> list[str]:
    """Return the arguments that continue the run in ``folder`` with the config it was started with.

    Raises:
        VaexError: when the folder is no run folder or has no checkpoint to continue from.
    """
    folder = folder.resolve()
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise VaexError(f"Cannot resume {folder}: it is not the folder of a run (no .hydra/config.yaml); check the path.")
    if not (folder / CHECKPOINTS / LAST).is_file():
        raise VaexError(f"Cannot resume {folder}: it holds no {CHECKPOINTS}/{LAST}; start the run again without resume=.")
    others = [a for a in arguments if not a.lstrip("+").startswith(("resume=", "hydra.run.dir=", "hydra.output_subdir="))]
    return [
        *others,
        f"--config-path={folder / '.hydra'}",
        "--config-name=config",
        f"resume={quoted(folder)}",
        f"hydra.run.dir={quoted(folder)}",
        "hydra.output_subdir=null",
    ]


def train(config: DictConfig) -> float | None:
    """Fit, validate and test the best weights; return the metric named by ``optimized_metric``."""
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    # From here on torch is imported
    import lightning.pytorch as pl  # noqa: PLC0415

    from vaex.callbacks.history import RunCSVLogger  # noqa: PLC0415
    from vaex.commands import assembly  # noqa: PLC0415
    from vaex.commands.record import RunRecord, flat_metrics, write_metrics  # noqa: PLC0415

    assembly.quiet()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(config.paths.run)
    data = assembly.build_data(config.data)
    module = assembly.build_module(config)
    callbacks = assembly.build_all(config.callbacks)
    loggers = assembly.build_all(config.logger)
    checkpoint = folder / CHECKPOINTS / LAST if config.resume else None
    if checkpoint is not None:
        step = resumed_step(checkpoint)
        for logger in loggers:
            if isinstance(logger, RunCSVLogger):
                logger.keep_until(step)
    trainer = assembly.build_trainer(config, callbacks, loggers)
    main = trainer.is_global_zero
    data.prepare_data() if main else None  # a missing data set should be told before anything is written
    record = RunRecord(folder, " ".join(["vaex", *sys.argv[1:]]), config.seed, data) if main else None
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(resolved)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        stages: dict[str, dict[str, float]] = {}
        best = best_checkpoint(folder)
        for stage, evaluate in (("val", trainer.validate), ("test", trainer.test)):
            if config.test and best is not None and not trainer.fast_dev_run:
                evaluate(module, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
                stages[stage] = flat_metrics(stage, trainer.callback_metrics, config.score.name)
        stages = stages or {"val": flat_metrics("val", trainer.callback_metrics, config.score.name)}
        if main:
            write_metrics(folder, **stages)
    except BaseException as error:
        if record:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            record.update("interrupted" if interrupted else "failed")
            if interrupted and (folder / CHECKPOINTS / LAST).is_file():
                print(f"Stopped at step {trainer.global_step}. Continue with: vaex train resume={folder}", file=sys.stderr)
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("success" if trainer.state.finished else "failed")
    if record:
        record.update("finished", best_checkpoint=None if best is None else str(best.relative_to(folder)))
        report(folder, stages)
    return optimized(config, stages)


def resumed_step(checkpoint: Path) -> int:
    """Return the optimiser step of a checkpoint; a damaged one is told with the alternatives."""
    from vaex.build import read_checkpoint  # noqa: PLC0415

    return int(read_checkpoint(checkpoint).get("global_step", 0))


def optimized(config: DictConfig, stages: dict[str, dict[str, float]]) -> float | None:
    """Return the value that a sweeper optimises, such as ``val/loss`` or ``test/image_auroc``."""
    if not config.optimized_metric:
        return None
    stage, _, name = config.optimized_metric.partition("/")
    if name not in stages.get(stage, {}):
        known = [f"{s}/{n}" for s, values in stages.items() for n in sorted(values)]
        raise VaexError(f"optimized_metric={config.optimized_metric} was not measured; measured are {', '.join(known)}.")
    return stages[stage][name]


def report(folder: Path, stages: dict[str, dict[str, float]]) -> None:
    """Print a table of the numbers, the run folder and the pictures worth opening."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    table = Table("measure", *stages, title="best checkpoint")
    for name in sorted({name for values in stages.values() for name in values}):
        table.add_row(name, *(f"{values[name]:.4f}" if name in values else "" for values in stages.values()))
    console.print(table)
    pictures = sorted((folder / "figures").glob("*.png"))
    tests = [path for path in pictures if "test" in path.name]
    console.print(f"Run folder: {folder}", soft_wrap=True, highlight=False)
    for path in (tests + [p for p in pictures if p not in tests][-1:])[:3]:
        console.print(f"Picture:    {path}", soft_wrap=True, highlight=False)
