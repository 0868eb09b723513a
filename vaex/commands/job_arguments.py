"""Which runs start several processes, the command line of one job of a sweep, and running it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

OF_SWEEPS = (
    "hydra.sweep.",
    "hydra.sweeper",
    "hydra/sweeper",
    "hydra.launcher",
    "hydra/launcher",
    "hydra.mode",
    "hydra.run.",
)
"""Overrides of Hydra that mean nothing to one job of a sweep."""


def starts_processes(trainer: Any) -> bool:
    """Return whether Lightning would start further processes for this trainer's config.

    It would not where they are there already: in a job of SLURM with several tasks, and under torchrun.
    """
    if trainer is None or "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        return False
    devices = OmegaConf.to_container(trainer).get("devices", 1)  # type: ignore[union-attr]
    count = len(devices) if isinstance(devices, list) else devices
    return str(count) not in ("1", "None")


def again(command: str, typed: Sequence[str], overrides: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments of ``vaex`` that run one job of a sweep, with its own ``overrides``, in ``folder``.

    Of what was ``typed`` the flags stay, such as ``--config-dir``, and the overrides of Hydra that are not of sweeps.
    """
    kept = []
    for argument in typed:
        is_override = not argument.startswith("-") and ("=" in argument or argument.startswith("~"))
        key = argument.lstrip("+~")
        if argument in ("-m", "--multirun") or key.startswith(OF_SWEEPS):
            continue
        if not is_override or key.startswith(("hydra.", "hydra/")):
            kept.append(argument)
    path = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [command, *overrides, *kept, "hydra.mode=RUN", f"hydra.run.dir='{path}'"]


def run_telling(command: Sequence[str]) -> tuple[int, str]:
    """Run a program and pass its stderr on; return its status, and the last line of stderr that starts with "vaex"."""
    last = ""

    def pass_on() -> None:
        nonlocal last
        for line in process.stderr or ():
            last = line.strip() if line.startswith("vaex ") else last
            print(line, end="", file=sys.stderr, flush=True)

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
        raise SystemExit(128 + number)

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if here else None  # else this process would leave that one behind
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    try:
        status = process.wait()
    finally:
        if process.poll() is None:  # Ctrl-C, which reaches that program as well, or SIGTERM, which does not
            process.terminate()
            process.wait()
        if here:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        reader.join(timeout=10)  # a process that it left behind may hold the pipe
    return status, last
