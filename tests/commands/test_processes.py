"""Runs whose processes SLURM, torchrun or several nodes start."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from tests.commands.test_train import SMALL, same, weights
from tests.pairs import run_pair
from tests.test_cluster import TASK, scontrol, tell, told
from tests.test_config import composed
from vaex.callbacks import LastCheckpoint
from vaex.cli import main
from vaex.cluster import REQUEUE_SIGNAL
from vaex.commands import assembly
from vaex.commands.processes import cluster_plugins, shared_arguments
from vaex.errors import VaexError

__all__ = ["told"]  # a fixture of another file


def test_one_process_keeps_its_arguments(told: pytest.MonkeyPatch) -> None:
    assert shared_arguments(["seed=1"]) == ["seed=1"]
    assert shared_arguments(["seed=1", "trainer.num_nodes=1"]) == ["seed=1", "trainer.num_nodes=1"]
    tell(told, {**TASK, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    told.delenv("SLURM_STEP_ID")  # a batch script without srun
    assert shared_arguments(["seed=1"]) == ["seed=1"]
    assert cluster_plugins()


def test_the_tasks_of_a_step_share_a_folder(told: pytest.MonkeyPatch) -> None:
    tell(told, TASK)
    quiet = "hydra.output_subdir=null"  # one process writes .hydra
    assert shared_arguments(["seed=1"]) == ["seed=1", "paths.run=outputs/slurm/4711.0", quiet]
    assert shared_arguments(["paths.output=runs"]) == ["paths.output=runs", "paths.run=runs/slurm/4711.0", quiet]
    assert shared_arguments(["paths.run=mine"]) == ["paths.run=mine", quiet]
    assert shared_arguments(["hydra.run.dir=mine"]) == ["hydra.run.dir=mine", quiet]
    assert shared_arguments(["resume=mine"]) == ["resume=mine", quiet]
    assert shared_arguments(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]
    assert shared_arguments(["sweep=seeds"]) == ["sweep=seeds"]
    assert shared_arguments(["--cfg", "job"]) == ["--cfg", "job"]
    told.setenv("SLURM_PROCID", "0")
    assert shared_arguments(["seed=1"]) == ["seed=1", "paths.run=outputs/slurm/4711.0"]


def test_a_requeued_job_resumes_what_it_finds(
    told: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tell(told, {**TASK, "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "1"})
    assert shared_arguments(["optim.lr=1"]) == [
        "optim.lr=1",
        "paths.run=outputs/slurm/4711.0",
    ]  # not one checkpoint yet
    for folder in ("outputs/slurm/4711.0", "mine"):
        last = tmp_path / folder / "checkpoints" / "last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
    assert shared_arguments(["optim.lr=1"]) == ["resume=outputs/slurm/4711.0", "trust=true"]
    assert shared_arguments(["paths.run='mine'", "optim.lr=1"]) == ["resume=mine", "trust=true"]
    told.setenv("SLURM_RESTART_COUNT", "0")
    assert shared_arguments(["paths.run=mine"]) == ["paths.run=mine"]


@pytest.mark.parametrize("nodes", [False, True])
def test_without_a_folder_of_all_no_run_begins(told: pytest.MonkeyPatch, nodes: bool) -> None:
    words = ["trainer.num_nodes=2"] if nodes else ["seed=1"]
    if not nodes:
        tell(told, {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1"})
    with pytest.raises(
        VaexError, match=r"would make a folder of its own: name one that all of them see, paths\.run=FOLDER"
    ):
        shared_arguments(words)
    assert shared_arguments([*words, "paths.run=x"])[:2] == [*words, "paths.run=x"]


def test_trainer_slurm_takes_nodes_and_tasks_of_the_job(told: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone = composed(tmp_path, "trainer=slurm").trainer
    assert (alone.devices, alone.num_nodes, alone.accelerator, alone.strategy) == (1, 1, "gpu", "ddp")
    assert cluster_plugins() == []
    tell(told, TASK)
    config = composed(tmp_path, "trainer=slurm", "trainer.accelerator=cpu")
    assert (config.trainer.devices, config.trainer.num_nodes) == (2, 2)
    trainer = assembly.build_trainer(config, [], [])
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank, trainer.node_rank) == (4, 3, 1, 1)
    (plugin,) = cluster_plugins()
    assert isinstance(plugin, SLURMEnvironment)
    assert not plugin.auto_requeue
    config.trainer.devices = 3
    with pytest.raises(ValueError, match="devices=3"):
        assembly.build_trainer(config, [], []).strategy.launcher.launch(print)  # type: ignore[union-attr]


UNTOLD = LastCheckpoint.on_train_batch_end


def told_at_seven(self: LastCheckpoint, trainer: pl.Trainer, *given: Any) -> None:
    """Send the signal that SLURM would send, at the seventh step and to the first process alone: signals come late."""
    if trainer.global_step == 7 and trainer.is_global_zero:
        os.kill(os.getpid(), REQUEUE_SIGNAL)
    UNTOLD(self, trainer, *given)


JOB = [*SMALL, "data.batch_size=4", "trainer=slurm", "trainer.accelerator=cpu", "trainer.max_epochs=2", "test=false"]


def _tasks(rank: int, path: str) -> None:
    folder = Path(path)
    os.chdir(folder)
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    with pytest.MonkeyPatch.context() as patch:
        tell(patch, {**TASK, **own, "SLURM_NTASKS": "2", "SLURM_NNODES": "1"})
        scontrol(folder, patch) if rank == 0 else None
        torch.distributed.barrier()
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        assert main(["train", *JOB, "paths.output=whole"]) == 0
        patch.setattr(LastCheckpoint, "on_train_batch_end", told_at_seven)
        assert main(["train", *JOB]) == (128 + REQUEUE_SIGNAL if rank == 0 else 1)  # Lightning ends the others
        torch.distributed.barrier()
        patch.setenv("SLURM_RESTART_COUNT", "1")
        step = torch.load("outputs/slurm/4711.0/checkpoints/last.ckpt", weights_only=True)["global_step"]
        torch.save(step, f"{rank}.pt")
        torch.distributed.barrier()
        assert main(["train", *JOB]) == 0  # typed as before, resumed all the same


@pytest.mark.slow
def test_two_tasks_of_a_job_stop_together_and_go_on_when_it_runs_again(tmp_path: Path) -> None:
    run_pair(_tasks, str(tmp_path))
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [7, 7]
    assert (tmp_path / "calls").read_text() == "requeue 4711\n"  # once, by one of the two
    run, whole = tmp_path / "outputs/slurm/4711.0", tmp_path / "whole/slurm/4711.0"
    assert not list(run.rglob("hpc_ckpt*"))
    assert [path.name for path in (tmp_path / "outputs/slurm").iterdir()] == ["4711.0"]
    assert same(weights(run), weights(whole))
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert len(record["sessions"]) == 2
    with (run / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(28))


def _nodes(rank: int, path: str) -> None:
    with pytest.MonkeyPatch.context() as patch:  # a machine with one device each
        patch.setenv("NODE_RANK", str(rank))
        patch.setenv("LOCAL_RANK", "0")
        patch.delenv("RANK")
        options = ["data.batch_size=4", "trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", "test=false"]
        assert main(["train", *SMALL, *options, "trainer.max_epochs=1", f"paths.run={path}/run"]) == 0


@pytest.mark.slow
def test_two_nodes_train_one_run(tmp_path: Path) -> None:
    run_pair(_nodes, str(tmp_path))
    assert weights(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 14  # of 112 images, eight in all at a step
