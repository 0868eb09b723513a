"""Ending a pass over images on Ctrl-C and SIGTERM behind the batch that is begun, so that what is done is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def finish_first() -> Iterator[Callable[[], int | None]]:
    """Yield a function that tells which signal, Ctrl-C or SIGTERM, asked the body to end; what is begun is finished.

    A second signal ends it at once. Afterwards signals do what they did before.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for taken, handler in before.items():
            signal.signal(taken, signal.SIG_DFL if handler is None else handler)
