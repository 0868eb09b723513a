"""Ending a run on Ctrl-C and SIGTERM: how the process says so, and what is cleared up behind one that was killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from vaex.callbacks import LastCheckpoint
from vaex.errors import VaexError
from vaex.runs import CHECKPOINTS

UNFINISHED = re.compile(r"\..+\.\d+\.tmp")
"""Names of files that were being written: see `vaex.runs.write_atomic` and `vaex.modules.checkpoint_io`."""

WAIT = 15.0
"""Seconds that a run waits for the workers of a killed one to let its folder go."""


class Signals:
    """The signal that asked the run to end, if any."""

    def __init__(self) -> None:
        self.received: int | None = None

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        raise SystemExit(128 + number)

    def behind(self, stop: BaseException, callbacks: Any = ()) -> int | None:
        """Return the signal behind ``stop``; Lightning ends a fit with status 1 whatever came."""
        noted = [callback.received for callback in callbacks if isinstance(callback, LastCheckpoint)]
        return next((n for n in (*noted, self.received) if n is not None), None) or (
            signal.SIGINT if isinstance(stop, KeyboardInterrupt) else None
        )


@contextmanager
def ending_signals() -> Iterator[Signals]:
    """Let SIGTERM end the body as Ctrl-C does, with what is to be done at its end; afterwards all is as before.

    During the training itself `vaex.callbacks.LastCheckpoint` takes both signals over, to end behind a whole step.
    """
    signals = Signals()
    before: dict[int, Any] = {}
    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGTERM, signals._end)
    except ValueError:  # not the main thread
        before = {}
    try:
        yield signals
    finally:
        for taken, handler in before.items():
            signal.signal(taken, signal.SIG_DFL if handler is None else handler)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a run folder to this process, and remove what an earlier one left half-written.

    The lock lies on the folder itself, leaves no file behind and ends with the process. Some network file systems know
    none; there nothing is kept.

    Raises:
        VaexError: when another process trains in the folder.
    """
    descriptor = None
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # absent on Windows

        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        deadline = time.monotonic() + WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                os.close(descriptor)
                raise VaexError(
                    f"Another process trains in {folder}; wait for it or stop it, or choose another folder."
                ) from None
            for place in (folder, folder / CHECKPOINTS):
                for file in place.glob(".*.tmp"):
                    if UNFINISHED.fullmatch(file.name):
                        file.unlink(missing_ok=True)
            break
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
