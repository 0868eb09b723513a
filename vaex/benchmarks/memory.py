"""The peak memory of one call above the level before it, counted allocation by allocation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

MEMORY_EVENT = "[memory]"
MARK = "vaex: second call"


def peak_bytes(call: Callable[[], Any], device: str = "cpu") -> int:
    """Return by how many bytes tensors exceeded the level before ``call`` at most, its result included.

    On the CPU every allocation and release that torch's allocator reports is added up in order; scratch memory that a
    library takes past it is not seen. The call is made twice there: only of what was allocated under observation is
    the release seen, and a training step releases what the step before it allocated. On cuda it is the allocator's
    own peak.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _without_stderr():
        profiler.start()
    try:
        with _without_stderr():
            call()
        with record_function(MARK):
            pass
        kept = call()  # released after the measurement
    finally:
        with _without_stderr():
            profiler.stop()
    del kept
    inner: Any = profiler.profiler
    events = inner.kineto_results.events()
    begin = next(event.start_ns() for event in events if event.name() == MARK)
    changes = [event for event in events if event.name() == MEMORY_EVENT and event.start_ns() > begin]
    level = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what the process writes to stderr: the profiler's library announces itself there at every turn."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
