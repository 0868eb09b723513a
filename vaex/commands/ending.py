"""Ending a sweep on Ctrl-C and SIGTERM with all its jobs, each of which saves first; nothing is left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

RUNNING = ".running"
"""Folder below that of a sweep: a file for each process of joblib that is at a job, named by its number."""

STOPPED = "stopped"
"""File in there: the number of the process that was asked to end the sweep."""

LOOK = 0.2
"""Seconds between two looks at who is still at a job."""


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
    for children in Path("/proc/self/task").glob("*/children"):  # on Linux; submitit_local's would go on by themselves
        for child in children.read_text().split():
            with suppress(OSError):
                os.kill(int(child), number)
    raise SystemExit(128 + number)


class _Ending:
    """The end of joblib's jobs, whose workers joblib would kill as soon as this process leaves it."""

    def __init__(self, workers: Callable[[], Path | None]) -> None:
        self.workers = workers
        self.number: int | None = None
        self.told: set[int] = set()

    def begin(self, number: int, frame: FrameType | None) -> None:
        """Stop at once, or with joblib only note it and look again and again whether all have saved."""
        folder = self.workers()
        if number == signal.SIGINT and (folder is None or self.number is not None):
            raise KeyboardInterrupt
        if folder is None:
            _end(number, frame)
        elif self.number is None:
            self.number = number
            (folder / RUNNING).mkdir(parents=True, exist_ok=True)
            (folder / RUNNING / STOPPED).write_text(str(os.getpid()))
            print("\nInterrupted: the jobs save and end (press Ctrl-C again to stop at once) ...", file=sys.stderr)
            signal.setitimer(signal.ITIMER_REAL, LOOK, LOOK)

    def look(self, number: int, frame: FrameType | None) -> None:
        """Ask each that is at a job to end, once; leave when none is."""
        folder = self.workers()
        busy = [] if folder is None else [int(path.stem) for path in (folder / RUNNING).glob("*.pid")]
        there = set()
        for process in busy:
            with suppress(OSError):  # killed by another
                os.kill(process, 0 if process in self.told else signal.SIGTERM)
                there.add(process)
        self.told |= there
        if not there:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise SystemExit(128 + (self.number or signal.SIGTERM))


@contextmanager
def ending_jobs(workers: Callable[[], Path | None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM leave the body when all jobs have saved; afterwards all is as before.

    ``workers`` returns the folder of a sweep whose jobs are joblib's, else None: other jobs run in this process, or are
    its children, to whom SIGTERM is passed on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = _Ending(workers)
    before: dict[int, Any] = {number: signal.signal(number, ending.begin) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, ending.look)
    try:
        try:
            yield
        except Exception:
            if ending.number is None:
                raise
        if ending.number is not None:  # the last job may be back before anybody looks
            raise SystemExit(128 + ending.number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        forget(workers())
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def forget(folder: Path | None) -> None:
    """Remove what a sweep in ``folder`` left of its end, or of its workers where it was killed."""
    for file in (folder / RUNNING).glob("*") if folder is not None else ():
        file.unlink(missing_ok=True)


def was_stopped(folder: Path) -> bool:
    """Return whether the sweep in ``folder`` was asked to end."""
    return (folder / RUNNING / STOPPED).exists()


@contextmanager
def at_a_job(folder: Path) -> Iterator[None]:
    """Let the body, a job in a worker of joblib, be ended as a run of its own would be; signals spare an idle worker.

    One that died would take the others along.

    Raises:
        SystemExit: when the sweep was stopped before the body begins.
    """

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def rest(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
        if number == signal.SIGTERM and not was_stopped(folder):
            raise SystemExit(128 + number)

    mark = folder / RUNNING / f"{os.getpid()}.pid"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        if was_stopped(folder):  # looked at behind the mark, as the other side marks before it looks
            raise SystemExit(128 + signal.SIGTERM)
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, rest)
        mark.unlink(missing_ok=True)
