"""What every logger of a run is told: its config once, its final numbers, from where it goes on, and that it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vaex.callbacks.wandb_run import RunWandbLogger


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
