"""What SLURM and torchrun say of a process, and asking SLURM to run a job again."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from vaex import cluster
from vaex.cluster import (
    REQUEUE_SIGNAL,
    answer_requeue_signal,
    job_size,
    outer_processes,
    outer_rank,
    requeue_job,
    slurm_job,
    slurm_step,
    was_requeued,
)
from vaex.errors import VaexError

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
}
"""What srun tells the last of four tasks on two nodes."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    return monkeypatch


def tell(patch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        patch.setenv(name, value)


def test_without_a_cluster_there_is_one_process(told: pytest.MonkeyPatch) -> None:
    assert slurm_job() is None
    assert slurm_step() is None
    assert not was_requeued()
    assert (outer_processes(), outer_rank()) == (1, 0)
    told.setenv("WORLD_SIZE", "2")  # of Lightning's own processes, which it tells folder and rank by itself
    told.setenv("RANK", "1")
    assert (outer_processes(), outer_rank()) == (1, 0)


def test_slurm(told: pytest.MonkeyPatch) -> None:
    tell(told, TASK)
    assert (slurm_job(), slurm_step()) == ("4711", "4711.0")
    assert (outer_processes(), outer_rank()) == (4, 3)
    assert not was_requeued()
    told.setenv("SLURM_RESTART_COUNT", "0")
    assert not was_requeued()
    told.setenv("SLURM_RESTART_COUNT", "2")
    assert was_requeued()
    tell(told, {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "5"})
    assert (slurm_job(), slurm_step()) == ("4700_5", "4700_5.0")
    told.delenv("SLURM_STEP_ID")  # a batch script without srun may train several times
    assert slurm_step() is None
    told.setenv("SLURM_JOB_NAME", "bash")  # an interactive job: processes are started by hand
    assert slurm_job() is None
    assert outer_processes() == 1


def test_the_size_of_a_job(told: pytest.MonkeyPatch) -> None:
    assert (job_size("tasks"), job_size("nodes")) == (1, 1)
    tell(told, {**TASK, "SLURM_NNODES": "3"})
    assert (job_size("tasks"), job_size("nodes")) == (2, 3)
    told.setenv("SLURM_NTASKS_PER_NODE", "4(x2)")
    with pytest.raises(VaexError, match="not one number for all nodes"):
        job_size("tasks")
    with pytest.raises(VaexError, match="did you mean 'tasks'"):
        job_size("task")


def test_torchrun(told: pytest.MonkeyPatch) -> None:
    tell(told, {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "RANK": "5"})
    assert (outer_processes(), outer_rank()) == (8, 5)
    assert slurm_job() is None


def scontrol(folder: Path, patch: pytest.MonkeyPatch, status: int = 0) -> Path:
    """Put a program on the path that notes what it is called with and ends with ``status``."""
    program, notes = folder / "scontrol", folder / "calls"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{notes}"\necho "not now" >&2\nexit {status}\n')
    program.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return notes


def test_a_job_is_requeued_by_its_id(
    told: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = scontrol(tmp_path, told)
    assert not requeue_job()  # no job
    tell(told, {**TASK, "SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "5"})
    assert requeue_job()
    assert calls.read_text() == "requeue 4700_5\n"
    assert "job 4700_5 is requeued" in capsys.readouterr().err
    told.setenv("SLURM_ARRAY_TASK_ID", "5; touch x")  # goes to no shell, and to no scontrol either
    assert not requeue_job()
    assert calls.read_text().count("\n") == 1


def test_a_refusal_is_told(told: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(told, TASK)
    scontrol(tmp_path, told, status=1)
    assert not requeue_job()
    assert "job 4711 cannot be requeued (not now); submit it again." in capsys.readouterr().err
    told.setenv("PATH", str(tmp_path / "empty"))
    assert not requeue_job()
    assert "No such file" in capsys.readouterr().err


def test_the_first_process_requeues_outside_of_training(told: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    told.setattr(cluster, "requeue_job", lambda: calls.append("requeue"))
    before = signal.getsignal(REQUEUE_SIGNAL)
    answer_requeue_signal()
    assert signal.getsignal(REQUEUE_SIGNAL) == before  # no SLURM
    tell(told, TASK)
    try:
        answer_requeue_signal()
        signal.raise_signal(REQUEUE_SIGNAL)
        assert calls == []  # not the last of four
        told.setenv("SLURM_PROCID", "0")
        signal.raise_signal(REQUEUE_SIGNAL)
        assert calls == ["requeue"]
    finally:
        signal.signal(REQUEUE_SIGNAL, before)
