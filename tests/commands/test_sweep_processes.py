"""Sweeps through the installed program, whose jobs have processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    *("data.size=32", "data.grid={shape: 2, scale: 1, orientation: 1, x: 4, y: 4}", "data.val=4", "data.test=4"),
    *("data.batch_size=4", "data.eval_batch_size=4", "network.width=4", "network.depth=2", "network.hidden=8"),
    *("callbacks=[checkpoint]", "metrics.disentanglement=null", "trainer.max_epochs=1", "calibration_images=4"),
]


def sweep(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vaex", "train", "-m", *SMALL, *overrides, f"hydra.sweep.dir='{folder}'"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ranks_of(folder: Path) -> list[int]:
    """Return the processes, other than rank 0 of a job, whose command names ``folder`` and a rank."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and "train_ddp_process_1" in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_two_ranks_in_each_job_of_a_sweep(tmp_path: Path) -> None:
    """Rank 1 of the first job is killed and the second job fails; the others finish, with a folder each."""
    folder = tmp_path / "a sweep"
    running = sweep(folder, "trainer=ddp_cpu", "network.latents=4,-1,3,2")
    deadline = time.monotonic() + 120
    while not (ranks := ranks_of(folder / "0")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(ranks[0], signal.SIGKILL)
    out, err = running.communicate(timeout=400)
    assert running.returncode == 1, err[-3000:]
    assert "vaex train: job 0 (network.latents=4) failed: its process ended with status " in err
    assert "vaex train: job 1 (network.latents=-1) failed: network.latents must be at least 1, got -1." in err
    assert "2 of the jobs failed" in err
    assert {path.name for path in folder.iterdir()} == {"0", "1", "2", "3", ".failed", "multirun.yaml"}
    assert list(tmp_path.iterdir()) == [folder]
    for number in (2, 3):
        record = json.loads((folder / str(number) / "run.json").read_text())
        assert record["status"] == "finished"
        assert len(record["sessions"]) == 1
        assert "hydra.mode=RUN" in record["command"]
        assert json.loads((folder / str(number) / "metrics.json").read_text())["test"]["loss"] > 0
        assert out.count(f"{folder / str(number)}\n") == 1  # the table of one rank
    assert err.count("GLOBAL_RANK: 1, MEMBER: 2/2") == 2


@pytest.mark.slow
def test_two_jobs_at_a_time(tmp_path: Path) -> None:
    """joblib trains them at the same time, in processes of their own, which end in whole runs."""
    running = sweep(tmp_path, "launcher=joblib", "seed=0,1")
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-3000:]
    for number in ("0", "1"):
        record = json.loads((tmp_path / number / "run.json").read_text())
        assert (record["status"], record["seed"]) == ("finished", int(number))
        assert json.loads((tmp_path / number / "metrics.json").read_text())["test"]["loss"] > 0
