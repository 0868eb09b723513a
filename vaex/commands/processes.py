"""A run whose processes SLURM, torchrun or several nodes start: one folder for all, resumed where SLURM requeued it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaex.cluster import outer_processes, outer_rank, slurm_job, slurm_step, was_requeued
from vaex.commands.launch import ASKS, MULTIRUN, value_of
from vaex.errors import VaexError
from vaex.runs import CHECKPOINTS, LAST


def shared_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of ``vaex train`` with the run folder that all processes of a job share.

    A step of a SLURM job (``srun vaex train ...``) writes to ``<paths.output>/slurm/JOB.STEP`` unless it names
    ``paths.run``; a requeued one continues the run in there, if it got as far as a checkpoint. A single process that no
    cluster started, sweeps, and calls that only ask for help keep their arguments.

    Raises:
        VaexError: when torchrun or several nodes start a run without a folder, of which each process would make one.
    """
    words = list(arguments)
    if any(word.split("=")[0] in (*MULTIRUN, *ASKS) for word in words) or value_of(words, "sweep"):
        return words
    named = next((value for key in ("paths.run", "hydra.run.dir") if (value := value_of(words, key))), None)
    folder, step, several = named, slurm_step(), outer_processes() > 1
    if named is None and step is not None:
        folder = f"{value_of(words, 'paths.output') or 'outputs'}/slurm/{step}"
    nodes = value_of(words, "trainer.num_nodes") not in (None, "1")
    if folder is None and not value_of(words, "resume") and (several or nodes):
        raise VaexError(
            "Each process of this run would make a folder of its own: name one that all of them see, "
            "paths.run=FOLDER, or start them with srun."
        )
    if folder and was_requeued() and (Path(folder).expanduser() / CHECKPOINTS / LAST).is_file():
        words = [f"resume={folder}", "trust=true"]  # the config is the one that this very job wrote
    elif folder and named is None and not value_of(words, "resume"):
        words.append(f"paths.run={folder}")
    return [*words, "hydra.output_subdir=null"] if several and outer_rank() else words


def cluster_plugins() -> list[Any]:
    """Return Lightning's plugin for SLURM inside a job, else nothing: Lightning finds other environments itself.

    It tells rank, size and address of the job. Its own requeueing is off: it saves wherever a signal finds each
    process, in the middle of a step too, and leaves a file that a later test would load instead of the best weights;
    `vaex.callbacks.LastCheckpoint` saves behind a step that all processes have finished.
    """
    if slurm_job() is None:
        return []
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False)]
