"""What a cluster says of this process: its SLURM job, its rank, whether the job was requeued. Imports no torch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from types import FrameType

from vaex.errors import VaexError, unknown

INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which a user starts processes by hand, as Lightning has it."""

REQUEUE_SIGNAL: signal.Signals = getattr(signal, "SIGUSR1", signal.SIGTERM)  # Windows, without SLURM, has no other
"""What a job asks SLURM to be told by before its time is up: ``#SBATCH --signal=USR1@120``."""


def slurm_job() -> str | None:
    """Return the id of the SLURM job that this process belongs to, JOB_TASK in an array; None outside of one."""
    own = os.environ
    if "SLURM_NTASKS" not in own or own.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    if "SLURM_ARRAY_JOB_ID" in own and "SLURM_ARRAY_TASK_ID" in own:
        return f"{own['SLURM_ARRAY_JOB_ID']}_{own['SLURM_ARRAY_TASK_ID']}"
    return own.get("SLURM_JOB_ID")


def slurm_step() -> str | None:
    """Return JOB.STEP of the srun that started this process; None outside of one."""
    job, step = slurm_job(), os.environ.get("SLURM_STEP_ID")
    return f"{job}.{step}" if job and step else None


def was_requeued() -> bool:
    """Return whether SLURM runs this job for another time."""
    return slurm_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def outer_processes() -> int:
    """Return how many processes SLURM or torchrun started for this run, 1 where Lightning starts them itself."""
    if slurm_job() is not None:
        return int(os.environ["SLURM_NTASKS"])
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def outer_rank() -> int:
    """Return the rank that SLURM or torchrun gave this process, 0 where neither did."""
    if slurm_job() is not None:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def job_size(what: str) -> int:
    """Return the ``tasks`` per node or the ``nodes`` of the SLURM job, 1 outside of one.

    Raises:
        VaexError: for another name, or a number that SLURM gives in a form of its own, as for nodes that differ.
    """
    names = {"tasks": "SLURM_NTASKS_PER_NODE", "nodes": "SLURM_NNODES"}
    if what not in names:
        raise unknown("size of a SLURM job", what, names)
    found = os.environ.get(names[what], "1") if slurm_job() is not None else "1"
    if not found.isdecimal():
        raise VaexError(f"{names[what]} is '{found}', not one number for all nodes; set --ntasks-per-node and --nodes.")
    return int(found)


def requeue_job() -> bool:
    """Ask SLURM to run this job again later, which ends it now; return whether SLURM takes it, and say so on stderr."""
    job = slurm_job()
    if job is None or not re.fullmatch(r"\d+(_\d+)?", job):
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        failure = done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    told = f"cannot be requeued ({failure}); submit it again" if failure else "is requeued, and goes on from here"
    sys.stderr.write(f"vaex: job {job} {told}.\n")
    return not failure


def requeue_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
    """Requeue the job: the handler of `REQUEUE_SIGNAL` while nothing is trained, so that nothing is left to save."""
    if outer_rank() == 0:
        requeue_job()


def answer_requeue_signal() -> None:
    """Requeue the job at `REQUEUE_SIGNAL` from here on, of which it would die; nothing outside of SLURM."""
    if slurm_job() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(REQUEUE_SIGNAL, requeue_at_once)
