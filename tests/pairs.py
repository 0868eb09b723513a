"""Two processes that work together, forked off the one of the tests: starting Python and torch anew takes seconds."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _rank(rank: int, task: Callable[..., None], port: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # the threads of the parent were not forked with it
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ.update({**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        task(rank, *arguments)
    finally:
        dist.destroy_process_group()


def run_pair(task: Callable[..., None], *arguments: Any, seconds: float = 300) -> None:
    """Call ``task(rank, *arguments)`` in two processes of one gloo group, as Lightning takes them for its own.

    What one of them raises fails the test, and so does a pair that waits for itself.
    """
    context: Any = start_processes(_rank, (task, free_port(), arguments), nprocs=2, join=False, start_method="fork")
    until = time.monotonic() + seconds
    while not context.join(timeout=1):
        if time.monotonic() > until:
            for process in context.processes:
                process.kill()
            pytest.fail(f"Two processes did not end within {seconds} seconds: they wait for each other.")


def results(folder: Path) -> list[Any]:
    """Return what the two processes kept in ``folder``/0.pt and 1.pt."""
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
