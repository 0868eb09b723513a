"""The jobs of a command: one, or many of a sweep, in this process or another, and what becomes of those that fail."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vaex.commands.gpus import gpus_of_job
from vaex.commands.job_arguments import again, starts_processes
from vaex.config import CHECKPOINT_CHOICE, check_augmentation, register_resolvers
from vaex.errors import VaexError
from vaex.intake import printable
from vaex.runs import write_json
from vaex.sentences import sentence

FAILED = ".failed"
"""Folder below that of a sweep: a file for each job that failed, so that other processes and machines can tell."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""

NO_NUMBER = "No job returned a number to optimise: set optimized_metric to one that metrics.json holds."


class SweepWatch(Callback):
    """Hydra's callback that tells the process of a sweep where its folder is, which exists from then on."""

    folder: ClassVar[Path | None] = None
    launcher: ClassVar[str] = ""
    metrics: ClassVar[list[str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the folder of the sweep and what launches its jobs."""
        SweepWatch.folder = Path(config.hydra.sweep.dir)
        SweepWatch.launcher = str(config.hydra.launcher._target_)
        names = config.get("optimized_metric") or []
        SweepWatch.metrics = [names] if isinstance(names, str) else list(names)
        SweepWatch.folder.mkdir(parents=True, exist_ok=True)  # a study on disk is opened before the first job


WATCH = f"+hydra.callbacks.vaex_sweep_watch={{_target_: {SweepWatch.__module__}.{SweepWatch.__qualname__}}}"
"""Override that adds `SweepWatch`."""


@dataclass
class Job:
    """What Hydra calls for one config: the task of a command. Launchers send it to other processes.

    A single run keeps its error for the caller. A job of a sweep whose run has several processes gets processes of its
    own, so that neither its environment nor its end touches the jobs after it; ``outcome`` then tells what it returns,
    from config and run folder.
    """

    command: str
    task: Callable[[DictConfig], Any]
    typed: tuple[str, ...]
    program: str
    outcome: Callable[[DictConfig, Path], Any] | None = None
    sweep: str = field(default_factory=lambda: uuid.uuid4().hex)
    errors: list[Exception] = field(default_factory=list)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        register_resolvers()  # this process is another one, which has not composed a config yet

    def __call__(self, config: DictConfig) -> Any:
        """Run the task and return its value; None when it failed."""
        # Lightning starts further processes from sys.argv, which must name the command
        sys.argv = [self.program, self.command, *self.typed]
        several = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            if HydraConfig.get().runtime.choices.get("augmentation") != CHECKPOINT_CHOICE:
                check_augmentation(config)
            if several:
                check_objectives(config)
            with gpus_of_job(config) if several and config.get("pin_gpus") else nullcontext(None) as gpus:
                if gpus is not None:
                    with open_dict(config):
                        config.trainer.devices = gpus
                if several and starts_processes(config.get("trainer")):
                    return self._elsewhere(config)
                return self.task(config)
        except Exception as error:  # noqa: BLE001 - kept, so that the other jobs run and Hydra prints nothing of its own
            self.errors.append(error)
            if several:
                self._tell(sentence(error, self.command, self.typed))
            return None

    def _elsewhere(self, config: DictConfig) -> Any:
        """Run this job's config as a command of its own; what its processes print is passed on."""
        job = HydraConfig.get()
        overrides = list(job.overrides.task)
        devices = OmegaConf.to_container(config.trainer).get("devices")  # type: ignore[union-attr]
        if isinstance(devices, list):
            overrides.append(f"trainer.devices={json.dumps(devices)}")
        folder = Path(job.runtime.output_dir)
        status, last = run_telling([sys.executable, "-m", "vaex", *again(self.command, self.typed, overrides, folder)])
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            reason = last.removeprefix(f"vaex {self.command}: ") or f"its process ended with status {status}"
            raise VaexError(reason)
        return None if self.outcome is None else self.outcome(config, folder)

    def _tell(self, reason: str) -> None:
        job = HydraConfig.get()
        common = {bare(argument) for argument in self.typed}
        own = [override for override in job.overrides.task if bare(override) not in common]
        name = f"job {job.job.num} ({', '.join(own or job.overrides.task) or 'no overrides'})"
        told = printable(f"vaex {self.command}: {name} failed: {reason}")
        print(told, file=sys.stderr)
        with suppress(VaexError):  # a full disk: what was printed has to do
            content = {"sweep": self.sweep, "job": job.job.num, "told": told, "folder": job.runtime.output_dir}
            write_json(Path(job.sweep.dir) / FAILED / f"{job.job.num}.json", content)

    def failures(self, folder: Path | None) -> dict[int, str]:
        """Return what was told of each job of this sweep that failed, in whatever process, by its number."""
        told = {}
        for file in sorted((folder / FAILED).glob("*.json")) if folder is not None else ():
            with suppress(OSError, ValueError, TypeError, KeyError):
                content = json.loads(file.read_text())
                if content["sweep"] == self.sweep:
                    told[int(content["job"])] = str(content["told"])
        return dict(sorted(told.items()))


def bare(override: str) -> str:
    """Return an override without spaces, quotes and capitals, which Hydra writes in its own way: ``False``."""
    return re.sub(r"[\s'\"]", "", override).casefold()


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


def end_of_sweep(job: Job, error: Exception | None) -> None:
    """Say where the sweep lies and what a search found.

    Raises:
        VaexError: when jobs failed, each named, or the search got no number; any other error of the sweep as it is.
    """
    folder = SweepWatch.folder
    shared = any(name in SweepWatch.launcher for name in ("basic", "joblib"))  # they print where this process does
    failures = job.failures(folder)
    if failures or job.errors:
        if not shared:  # what the jobs printed lies in files
            print(*failures.values(), sep="\n", file=sys.stderr)
        count = max(len(failures), len(job.errors))
        rest = f" The sweep ended early: {sentence(error, job.command)}" if error and not is_empty_study(error) else ""
        raise VaexError(f"{count} of the jobs failed; each is named above.{rest}") from error
    if error is not None and is_empty_study(error):
        raise VaexError(NO_NUMBER) from error
    if error is not None:
        raise error
    if folder is not None:
        for line in search_results(folder, SweepWatch.metrics):
            print(line)
        print(f"Sweep folder: {folder}")


def check_objectives(config: DictConfig) -> None:
    """Refuse a search whose directions are not as many as ``optimized_metric`` names, before anything is trained.

    Raises:
        VaexError: naming both.
    """
    sweeper: Any = HydraConfig.get().sweeper
    direction, metric = sweeper.get("direction"), config.get("optimized_metric")
    if direction is None:
        return
    if OmegaConf.is_list(direction) != OmegaConf.is_list(metric) or (
        OmegaConf.is_list(direction) and len(direction) != len(metric)
    ):
        raise VaexError(
            f"hydra.sweeper.direction={direction} does not fit optimized_metric={metric}: name one direction for each."
        )


def is_empty_study(error: Exception) -> bool:
    """Return whether the error is Optuna's, that no trial of the study gave a value."""
    return isinstance(error, ValueError) and ("Record does not exist" in str(error) or "No trials" in str(error))


def search_results(folder: Path, names: Sequence[str]) -> list[str]:
    """Return lines with what the Optuna sweeper found for the metrics ``names``: the best, or all trade-offs.

    Raises:
        VaexError: when it got no numbers.
    """
    file = folder / "optimization_results.yaml"
    if not file.is_file():
        return []
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    if content.get("solutions") == []:
        raise VaexError(NO_NUMBER)
    found = content.get("solutions") or [{"params": content.get("best_params"), "values": [content.get("best_value")]}]
    return [
        f"Best: {', '.join(f'{name} {value:.6g}' for name, value in zip(names, one['values'], strict=False))} with "
        + " ".join(f"{key}={value}" for key, value in one["params"].items())
        for one in found
    ]
