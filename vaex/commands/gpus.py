"""GPUs for the jobs of a sweep: each takes some for itself, and waits until they are free."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.errors import VaexError

PAUSE = 1.0
"""Seconds between two looks at the locks."""


@contextmanager
def gpus_of_job(config: DictConfig) -> Iterator[list[int] | None]:
    """Yield the GPUs that are this job's until the body ends; None on a machine with fewer than two, or off GPUs.

    Raises:
        VaexError: when ``trainer.devices`` asks for more than there are.
    """
    trainer: Any = OmegaConf.to_container(config.trainer)
    if trainer.get("accelerator") not in ("gpu", "cuda", "auto") or (there := gpu_count()) < 2:
        yield None
        return
    wanted = wanted_gpus(trainer.get("devices", 1), there)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible if len(visible) == there else [str(number) for number in range(there)]
    with claimed(wanted, names, lock_folder()) as positions:
        yield positions


def gpu_count() -> int:
    """Return how many GPUs this process sees."""
    import torch

    return torch.cuda.device_count()


def wanted_gpus(devices: Any, there: int) -> int:
    """Return how many GPUs ``trainer.devices`` asks for: a number, a list of them, or -1 or "auto", all.

    Raises:
        VaexError: when it asks for more than ``there`` are.
    """
    if devices in (-1, "-1", "auto"):
        return there
    wanted = len(devices) if isinstance(devices, list) else int(devices)
    if not 1 <= wanted <= there:
        raise VaexError(f"trainer.devices={devices} cannot be had: this machine has {there} GPUs; choose fewer.")
    return wanted


def lock_folder() -> Path:
    """Return the folder of this user's locks, which all sweeps on this machine share.

    Raises:
        VaexError: when another user owns what lies there.
    """
    folder = Path(tempfile.gettempdir()) / f"vaex-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise VaexError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own, or pin_gpus=false.")
    return folder


@contextmanager
def claimed(count: int, names: Sequence[str], folder: Path) -> Iterator[list[int]]:
    """Yield the positions of ``count`` of the ``names``, which no other process gets before the body ends.

    Locks are the kernel's, so a process that is killed gives its own back. One process at a time chooses: of several
    that want two each, none holds one and waits for another.
    """
    import fcntl

    with ExitStack() as locks:
        with (folder / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            while True:
                held, positions = ExitStack(), []
                for position, name in enumerate(names):
                    file = held.enter_context((folder / name.replace(os.sep, "_")).open("w"))
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    positions.append(position)
                    if len(positions) == count:
                        break
                if len(positions) == count:
                    locks.enter_context(held)
                    break
                held.close()
                time.sleep(PAUSE)
        yield positions
