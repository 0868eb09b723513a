"""GPUs for jobs: no two hold one at the same time, all get theirs, and a killed one gives its own back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig

from vaex.commands import gpus
from vaex.commands.gpus import claimed, lock_folder, wanted_gpus
from vaex.commands.launch import under_hydra
from vaex.errors import VaexError

NAMES = ["0", "1", "GPU-5f", "MIG-1/2"]


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "PAUSE", 0.002)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_no_gpu_has_two_jobs_and_every_job_gets_its_gpus(tmp_path: Path) -> None:
    """Twelve jobs that want one to four of four; a counter per GPU is the oracle. A lock holds per open file."""
    inside = [0] * len(NAMES)
    done: list[int] = []
    wrong: list[list[int]] = []

    def job(count: int) -> None:
        with claimed(count, NAMES, tmp_path) as positions:
            for position in positions:
                inside[position] += 1
            time.sleep(0.005)
            if len(set(positions)) != count or any(inside[position] != 1 for position in positions):
                wrong.append(positions)
            for position in positions:
                inside[position] -= 1
        done.append(count)

    threads = [threading.Thread(target=job, args=(count,), daemon=True) for count in [1, 2, 3, 4] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(done) == sorted([1, 2, 3, 4] * 3)
    assert not wrong


def test_a_killed_process_gives_its_gpu_back(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from vaex.commands.gpus import claimed\n"
        "with claimed(1, ['0'], Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mine\n"
    with claimed(1, ["0", "1"], tmp_path) as positions:
        assert positions == [1]
    holder.kill()
    holder.wait()
    with claimed(1, ["0", "1"], tmp_path) as positions:
        assert positions == [0]


@pytest.mark.parametrize(
    ("devices", "expected"), [(1, 1), ("2", 2), ([3], 1), ([0, 2], 2), (-1, 4), ("auto", 4), (4, 4)]
)
def test_how_many_are_wanted(devices: int | str | list[int], expected: int) -> None:
    assert wanted_gpus(devices, 4) == expected


@pytest.mark.parametrize("devices", [5, 0, [0, 1, 2, 3, 4]])
def test_more_than_there_are_cannot_be_had(devices: int | list[int]) -> None:
    with pytest.raises(VaexError, match="this machine has 4 GPUs"):
        wanted_gpus(devices, 4)


def test_the_locks_of_somebody_else_are_not_used(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = lock_folder()
    assert folder.stat().st_mode & 0o077 == 0
    folder.rmdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(VaexError, match="belongs to somebody else"):
        lock_folder()


@pytest.mark.parametrize(("there", "visible", "taken"), [(1, "", None), (3, "", [1]), (3, "4,5,6", [0])])
def test_a_job_of_a_sweep_sees_the_gpus_that_are_its_own(
    there: int, visible: str, taken: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU 0 of the machine is held by another job; which one that is CUDA_VISIBLE_DEVICES decides."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(gpus, "gpu_count", lambda: there)
    seen: list[object] = []

    def task(config: DictConfig) -> None:
        seen.append(config.trainer.devices)

    with claimed(1, ["0"], lock_folder()):
        under_hydra("train", task, ["-m", "seed=0", "trainer=gpu", "pin_gpus=true", f"hydra.sweep.dir={tmp_path}/s"])
    assert seen == [1 if taken is None else taken]
