"""A sweep whose jobs are joblib's, ended by a signal: each job saves, none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.killing import SMALL
from vaex.commands.ending import RUNNING, STOPPED, at_a_job, forget, was_stopped

ROOT = Path(__file__).parents[2]
OPTIONS = [option for option in SMALL if not option.startswith(("callbacks", "trainer.max_epochs"))]


def session(number: int) -> list[int]:
    """Processes of a session that are there, but for those that only wait to be asked how they ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = file.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(leader) == number and state != "Z":
            found.append(int(file.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "whole_group", "status"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)]
)
def test_a_signal_lets_every_job_of_joblib_save(
    number: signal.Signals, whole_group: bool, status: int, tmp_path: Path
) -> None:
    """A scheduler sends SIGTERM to the first process, a terminal Ctrl-C to all of them."""
    sweep = tmp_path / "sweep"
    command = [
        *(sys.executable, "-m", "vaex", "train", "-m", "seed=0,1,2", "launcher=joblib", "callbacks=[checkpoint]"),
        *(*OPTIONS, "trainer.max_epochs=100000", "callbacks.last_checkpoint.every_n_steps=1000000", "logger=none"),
        f"hydra.sweep.dir={sweep}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while len(saved := sorted(sweep.glob("*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = [path.stat().st_mtime_ns for path in saved]
    (os.killpg if whole_group else os.kill)(process.pid, number)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == status
    while session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session(process.pid) == []
    assert [path.name for path in sorted(sweep.iterdir()) if path.name.isdecimal()] == [
        "0",
        "1",
    ]  # the third never began
    for path, older in zip(saved, before, strict=True):
        assert path.stat().st_mtime_ns > older
        assert json.loads((path.parents[1] / "run.json").read_text())["status"] == "interrupted"
        assert f"Continue with: vaex train resume={path.parents[1]}" in error
    assert error.count("the sweep is stopped; to go on, repeat the command with hydra.sweep.dir=") == 1
    assert "Traceback" not in error
    assert list((sweep / RUNNING).iterdir()) == []


def test_a_job_that_comes_behind_the_stop_does_not_begin(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with at_a_job(tmp_path):
            assert (tmp_path / RUNNING / f"{os.getpid()}.pid").exists()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(SystemExit, match="143"):
                signal.raise_signal(signal.SIGTERM)
        assert not list((tmp_path / RUNNING).iterdir())
        signal.raise_signal(signal.SIGINT)  # an idle worker is spared
        (tmp_path / RUNNING / STOPPED).touch()
        assert was_stopped(tmp_path)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit), at_a_job(tmp_path):
            pytest.fail("the job began")
        forget(tmp_path)
        assert not was_stopped(tmp_path)
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
