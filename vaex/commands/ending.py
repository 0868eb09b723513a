"""Ending a sweep on SIGTERM with all its jobs: by itself Python would die and leave the launcher's processes behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
    raise SystemExit(128 + number)


@contextmanager
def ending_jobs() -> Iterator[None]:
    """Let SIGTERM leave the body by SystemExit, at which joblib ends its workers; afterwards all is as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
