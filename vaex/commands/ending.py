"""Ending a sweep on SIGTERM with all its jobs: by itself Python would die and leave the launcher's processes behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
    for children in Path("/proc/self/task").glob("*/children"):  # on Linux; submitit_local's would go on by themselves
        for child in children.read_text().split():
            with suppress(OSError):
                os.kill(int(child), number)
    raise SystemExit(128 + number)


@contextmanager
def ending_jobs() -> Iterator[None]:
    """Let SIGTERM leave the body by SystemExit, passed on to all child processes; afterwards all is as before.

    joblib ends its workers at once; the processes of submitit_local save first, as a single run does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
