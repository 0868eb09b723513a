"""Trainings as children of one process that has imported everything: killed, filled up and resumed. Run as a program.

``python -m tests.commands.killing FOLDER`` writes what happened to FOLDER/result.json; `test_nothing_lost` reads it.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vaex.callbacks import LastCheckpoint
from vaex.cli import main

KILLS = 10
SMALL = [
    *("data.size=32", "data.grid={shape: 2, scale: 2, orientation: 1, x: 4, y: 4}", "data.val=8", "data.test=8"),
    *("data.batch_size=8", "data.eval_batch_size=8", "network.width=4", "network.depth=3", "network.hidden=8"),
    *("network.latents=3", "trainer.log_every_n_steps=1", "callbacks=[attention,checkpoint]", "trainer.max_epochs=12"),
    *(
        "callbacks.last_checkpoint.every_n_steps=2",
        "metrics.disentanglement.names=[]",
        "score=kl",
        "metrics.scores=[kl]",
    ),
]  # 6 steps an epoch, 72 in all


def child(arguments: list[str], log: Path, at_step: Callable[[int], None]) -> int:
    """Start `vaex train` in a forked process; ``at_step`` is called in it behind every step."""
    number = os.fork()
    if number:
        return number
    status = 70
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        original = LastCheckpoint.on_train_batch_end

        def spied(self: Any, trainer: Any, *rest: Any) -> None:
            original(self, trainer, *rest)
            at_step(trainer.global_step)

        LastCheckpoint.on_train_batch_end = spied  # type: ignore[assignment,method-assign]
        status = main(["train", *arguments])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def killed_again_and_again(folder: Path, rng: random.Random) -> list[int]:
    """Start or resume the run ten times, each killed at a random moment; return the steps done at each kill."""
    steps = mmap.mmap(-1, 8)

    def note(_: int) -> None:
        steps[0] = min(steps[0] + 1, 255)

    kills: list[int] = []
    while len(kills) < KILLS:
        steps[0] = 0
        start = [*SMALL, f"hydra.run.dir={folder}"] if not (folder / ".hydra" / "config.yaml").exists() else None
        number = child(start or [f"resume={folder}"], folder.parent / "killed.log", note)
        wanted = rng.randrange(7)
        while steps[0] < wanted and os.waitpid(number, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(rng.random() * (0.05 if wanted else 1.5))
        os.kill(number, signal.SIGKILL)
        code = ended(number)
        if code != -signal.SIGKILL:
            raise SystemExit(f"the run ended with {code} before it was killed")
        kills.append(steps[0])
    return kills


def filled(folder: Path) -> dict[str, Any]:
    """Let the disk be full from step 9 on; the limit on the size of files stands for it."""

    def fill(step: int) -> None:
        if step >= 9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    log = folder.parent / "filled.log"
    status = ended(child([*SMALL, f"hydra.run.dir={folder}"], log, fill))
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    again = ended(child([f"resume={folder}"], folder.parent / "again.log", lambda step: None))
    return {"status": status, "said": log.read_text(), "kept": kept, "again": again}


def run(place: Path) -> None:
    """Do all of it below ``place``."""
    result: dict[str, Any] = {}
    result["whole"] = ended(child([*SMALL, f"hydra.run.dir={place / 'whole'}"], place / "whole.log", lambda step: None))
    result["kills"] = killed_again_and_again(place / "killed", random.Random(int(sys.argv[2])))
    result["finished"] = ended(child([f"resume={place / 'killed'}"], place / "finished.log", lambda step: None))
    result["filled"] = filled(place / "filled")
    (place / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
