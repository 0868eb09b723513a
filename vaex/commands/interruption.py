"""Ending a run on Ctrl-C and SIGTERM: how the process says so."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vaex.callbacks import LastCheckpoint


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
