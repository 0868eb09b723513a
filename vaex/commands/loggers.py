"""What every logger of a run is told: its config once, its final numbers, from where it goes on, and that it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaex.build import read_checkpoint
from vaex.callbacks.wandb_run import RunWandbLogger
from vaex.errors import VaexError
from vaex.runs import best_checkpoint


def log_config(loggers: Sequence[Any], config: Mapping[str, Any], job: str) -> None:
    """Log the resolved ``config``, plain values, of a ``job``: "train" or "evaluate"."""
    for logger in loggers:
        if isinstance(logger, RunWandbLogger):
            logger.doing(job)
        logger.log_hyperparams(config)


def log_stages(loggers: Sequence[Any], stages: Mapping[str, Mapping[str, float]]) -> None:
    """Give the numbers of metrics.json to those that keep final numbers."""
    for logger in loggers:
        if isinstance(logger, RunWandbLogger):
            logger.log_stages(stages)


def keep_until(loggers: Sequence[Any], step: int) -> None:
    """Let loggers of a resumed run, those of vaex, go on with the history of the first ``step`` optimiser steps."""
    for logger in loggers:
        if hasattr(logger, "keep_until"):
            logger.keep_until(step)


def step_of(resume: Path) -> int:
    """Return the optimiser steps that a checkpoint was taken behind.

    Raises:
        VaexError: when it is damaged; the best one is named, if there is one that can be read.
    """
    try:
        return int(read_checkpoint(resume).get("global_step", 0))
    except VaexError as error:
        best = best_checkpoint(resume.parent.parent)
        if best is None or best == resume:
            raise
        read_checkpoint(best)
        raise VaexError(
            f"{error} {best.name} beside it is whole: copy it to {resume.name} to go on from there."
        ) from error


@contextmanager
def closing(loggers: Sequence[Any], last: bool = True) -> Iterator[None]:
    """Finalise the loggers behind the body; behind the ``last`` one, and behind an error, close them for good."""
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, RunWandbLogger) and (last or status == "failed"):
                logger.close(status)  # the next job of a sweep would go on with this run
