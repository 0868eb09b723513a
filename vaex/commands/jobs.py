"""The jobs of a command: one, or many of a sweep, in this process or another, and what becomes of those that fail."""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vaex.commands.ending import at_a_job, forget, was_stopped
from vaex.commands.gpus import gpus_of_job
from vaex.commands.job_arguments import again, run_telling, starts_processes
from vaex.commands.searching import (
    NO_NUMBER,
    RefusedSweep,
    UnmeasuredError,
    check_objectives,
    check_sweep,
    is_empty_study,
    names_of_objective,
    search_results,
)
from vaex.config import CHECKPOINT_CHOICE, check_augmentation, register_resolvers
from vaex.errors import VaexError
from vaex.intake import printable
from vaex.runs import write_json
from vaex.sentences import sentence

FAILED = ".failed"
"""Folder below that of a sweep: a file for each job that failed, so that other processes and machines can tell."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""


class SweepWatch(Callback):
    """Hydra's callback that tells the process of a sweep where its folder is, which exists from then on."""

    folder: ClassVar[Path | None] = None
    launcher: ClassVar[str] = ""
    metrics: ClassVar[list[str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the folder of the sweep and what launches its jobs.

        Raises:
            RefusedSweep: for one that cannot be launched.
        """
        SweepWatch.folder = Path(config.hydra.sweep.dir)
        SweepWatch.launcher = str(config.hydra.launcher._target_)
        SweepWatch.metrics = names_of_objective(config)
        try:
            check_sweep(config)
        except VaexError as error:
            raise RefusedSweep(error) from error
        SweepWatch.folder.mkdir(parents=True, exist_ok=True)  # a study on disk is opened before the first job
        forget(SweepWatch.folder)


def how_to_go_on(command: str) -> None:
    """Say on stderr how a sweep that was stopped goes on."""
    if SweepWatch.folder is not None:
        goes_on = f"hydra.sweep.dir={SweepWatch.folder} skip_finished=true"
        again = f"repeat the command with {f'out={SweepWatch.folder} resume=true' if command == 'explain' else goes_on}"
        print(f"vaex {command}: the sweep is stopped; to go on, {again}.", file=sys.stderr)


def joblib_sweep() -> Path | None:
    """Return the folder of the sweep under way if its jobs run in workers of joblib, else None."""
    return SweepWatch.folder if "joblib" in SweepWatch.launcher else None


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
    process: int = field(default_factory=os.getpid)
    errors: list[Exception] = field(default_factory=list)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        register_resolvers()  # this process is another one, which has not composed a config yet

    def __call__(self, config: DictConfig) -> Any:
        """Run the task and return its value; None when it failed, or when the sweep was stopped."""
        # Lightning starts further processes from sys.argv, which must name the command
        sys.argv = [self.program, self.command, *self.typed]
        job = HydraConfig.get()
        several = job.mode == RunMode.MULTIRUN
        worker = several and os.getpid() != self.process and "joblib" in str(job.launcher._target_)
        folder = Path(job.sweep.dir)
        try:
            if several and any(told.final for told in self._told(folder)):
                return None  # no later trial could be measured
            with at_a_job(folder) if worker else nullcontext():
                return self._run(config, several)
        except (KeyboardInterrupt, SystemExit) as stop:
            if not worker:
                raise
            if not was_stopped(folder):  # this job alone was
                self._tell(f"it was stopped ({'Ctrl-C' if isinstance(stop, KeyboardInterrupt) else 'SIGTERM'}).")
        except Exception as error:
            self.errors.append(error)
            if several:
                self._tell(sentence(error, self.command, self.typed), final=isinstance(error, UnmeasuredError))
                if isinstance(error, UnmeasuredError) and os.getpid() == self.process:
                    raise RefusedSweep(error) from error
        return None

    def _run(self, config: DictConfig, several: bool) -> Any:
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

    def _tell(self, reason: str, final: bool = False) -> None:
        job = HydraConfig.get()
        common = {bare(argument) for argument in self.typed}
        own = [override for override in job.overrides.task if bare(override) not in common]
        name = f"job {job.job.num} ({', '.join(own or job.overrides.task) or 'no overrides'})"
        told = printable(f"vaex {self.command}: {name} failed: {reason}")
        print(told, file=sys.stderr)
        with suppress(VaexError):  # a full disk: what was printed has to do
            content = {"sweep": self.sweep, "job": job.job.num, "told": told, "final": final}
            write_json(Path(job.sweep.dir) / FAILED / f"{job.job.num}.json", content)

    def failures(self, folder: Path | None) -> dict[int, str]:
        """Return what was told of each job of this sweep that failed, in whatever process, by its number."""
        return {failure.job: failure.told for failure in sorted(self._told(folder))}

    def _told(self, folder: Path | None) -> Iterator[Failure]:
        for file in (folder / FAILED).glob("*.json") if folder is not None else ():
            with suppress(OSError, ValueError, TypeError, KeyError):
                content = json.loads(file.read_text())
                if content["sweep"] == self.sweep:
                    yield Failure(int(content["job"]), str(content["told"]), content["final"] is True)


class Failure(NamedTuple):
    """What was told of a job that failed; ``final``: there is no use in the jobs behind it."""

    job: int
    told: str
    final: bool


def bare(override: str) -> str:
    """Return an override without spaces, quotes and capitals, which Hydra writes in its own way: ``False``."""
    return re.sub(r"[\s'\"]", "", override).casefold()


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
        early = error is not None and not isinstance(error, UnmeasuredError) and not is_empty_study(error)
        rest = f" The sweep ended early: {sentence(error, job.command)}" if early and error else ""
        if isinstance(error, UnmeasuredError) or any(told.final for told in job._told(folder)):
            rest = " No other trial could be measured, so the search ended."
        raise VaexError(f"{count} of the jobs failed; each is named above.{rest}") from error
    if error is not None and is_empty_study(error):
        raise VaexError(NO_NUMBER) from error
    if error is not None:
        raise error
    if folder is not None:
        for line in search_results(folder, SweepWatch.metrics):
            print(line)
        print(f"Sweep folder: {folder}")
