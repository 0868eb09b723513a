"""One process at a time in a folder of results, and what is cleared up there behind one that was killed."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vaex.errors import VaexError
from vaex.runs import CHECKPOINTS

UNFINISHED = re.compile(r"\..+\.(\d+|[0-9a-f]{32})\.tmp")
"""Names of files that were being written: see `vaex.runs`, `vaex.modules.checkpoint_io` and `vaex.viz.files`."""

WAIT = 15.0
"""Seconds that a process waits for a killed one, or its workers, to let the folder go."""


@contextmanager
def alone_in(folder: Path, works: str = "trains", below: Sequence[str] = (CHECKPOINTS,)) -> Iterator[None]:
    """Keep a folder of results to this process, and remove what an earlier one left half-written, also in those below.

    The lock lies on the folder itself, leaves no file behind and ends with the process. Some network file systems know
    none; there nothing is kept.

    Raises:
        VaexError: when another process ``works`` in the folder.
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
                    f"Another process {works} in {folder}; wait for it or stop it, or choose another folder."
                ) from None
            for place in (folder, *(folder / name for name in below)):
                for file in place.glob(".*.tmp"):
                    if UNFINISHED.fullmatch(file.name):
                        file.unlink(missing_ok=True)
            break
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
