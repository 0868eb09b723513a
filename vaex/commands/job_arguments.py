"""Which runs start several processes, and the command line of one job of a sweep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
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
