"""Runs that finished are not repeated, and those that stopped go on; a run is known by its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from vaex.cli import main
from vaex.commands.finished import fingerprint, finished_run, stand_in, stopped_half_way
from vaex.commands.train import earlier_run
from vaex.config import conf_dir

CONFIG: dict[str, Any] = {
    "name": "a",
    "seed": 0,
    "paths": {"output": "x"},
    "data": {"size": 32, "root": "d", "grid": [1, 2]},
    "trainer": {"devices": 1},
    "logger": {"csv": {"_target_": "x"}},
    "skip_finished": False,
    "optimized_metric": "val/loss",
}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(CONFIG))
    *path, last = key.split(".")
    node = config
    for name in path:
        node = node[name]
    node[last] = value
    return dict(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("paths.output", "y"),
        ("data.root", "e"),
        ("logger", {}),
        ("skip_finished", True),
        ("pin_gpus", True),
        ("channels_last", True),
        ("compile", True),
        ("trust", True),
        ("optimized_metric", ["a", "b"]),
        ("trainer.devices", [3]),
    ],
)
def test_what_no_result_depends_on_does_not_count(key: str, value: Any) -> None:
    assert fingerprint(changed(key, value)) == fingerprint(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 1), ("name", "b"), ("data.size", 64), ("data.grid", [2, 1]), ("trainer.devices", 2), ("new", None)],
)
def test_all_else_counts(key: str, value: Any) -> None:
    assert fingerprint(changed(key, value)) != fingerprint(CONFIG)


def recorded(folder: Path, record: Any, metrics: bool = True, last: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(record if isinstance(record, str) else json.dumps(record))
    if metrics:
        (folder / "metrics.json").write_text("{}")
    if last:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def test_only_a_whole_finished_run_of_the_same_config_is_found(tmp_path: Path) -> None:
    recorded(tmp_path / "a/other", {"config": "l", "status": "finished"})
    recorded(tmp_path / "a/running", {"config": "k", "status": "running"})
    recorded(tmp_path / "a/unmeasured", {"config": "k", "status": "finished"}, metrics=False)
    recorded(tmp_path / "a/damaged", '{"config": "k", "sta')
    recorded(tmp_path / "a/old", {"status": "finished"})
    recorded(tmp_path / "a/list", "[1]")
    assert finished_run("k", tmp_path / "nowhere", tmp_path) is None
    found = recorded(tmp_path / "b/deep/1", {"config": "k", "status": "finished"})
    assert finished_run("k", tmp_path / "a", tmp_path) == found
    assert finished_run("k", found, tmp_path) == found


def test_a_run_that_can_go_on(tmp_path: Path) -> None:
    assert stopped_half_way(recorded(tmp_path / "1", {"config": "k", "status": "running"}, last=True), "k")
    assert not stopped_half_way(tmp_path / "1", "l")
    assert not stopped_half_way(recorded(tmp_path / "2", {"config": "k", "status": "failed"}), "k")
    assert not stopped_half_way(recorded(tmp_path / "3", {"config": "k", "status": "finished"}, last=True), "k")
    assert not stopped_half_way(tmp_path / "nowhere", "k")


@pytest.mark.parametrize(
    ("asked", "requeued", "status", "expected"),
    [
        (True, False, "finished", ("elsewhere", False)),
        (True, False, "running", ("elsewhere", False)),  # another one finished
        (False, True, "running", (None, True)),  # SLURM runs the job again: its own folder counts
        (False, True, "finished", ("own", False)),
        (False, False, "running", (None, False)),
    ],
)
def test_when_a_run_looks_at_earlier_ones(
    asked: bool,
    requeued: bool,
    status: str,
    expected: tuple[str | None, bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = recorded(tmp_path / "own", {"config": "k", "status": status}, metrics=status == "finished", last=True)
    recorded(tmp_path / "outputs/elsewhere", {"config": "k", "status": "finished"})
    monkeypatch.setattr("vaex.commands.train.was_requeued", lambda: requeued)
    content = {"skip_finished": asked, "resume": None, "paths": {"output": f"{tmp_path}/outputs"}}
    folder = own if not asked else tmp_path / "new"
    finished, goes_on = earlier_run(OmegaConf.create(content), folder, "k")
    assert (finished.name if finished else None, goes_on) == expected
    assert earlier_run(OmegaConf.create({**content, "resume": "x"}), folder, "k") == (None, True)


def test_a_folder_that_ran_itself_points_nowhere(tmp_path: Path) -> None:
    stand_in(tmp_path, tmp_path / "x" / "..")
    assert not list(tmp_path.iterdir())


SMALL = [
    *("data.size=32", "data.grid={shape: 2, scale: 1, orientation: 1, x: 4, y: 4}", "data.val=4", "data.test=4"),
    *("data.batch_size=4", "data.eval_batch_size=4", "network.width=4", "network.depth=2", "network.hidden=8"),
    *("network.latents=3", "callbacks=[checkpoint]", "metrics.disentanglement=null", "trainer.max_epochs=2"),
    *("trainer.log_every_n_steps=1", "calibration_images=4"),
]  # 24 training images, 6 steps an epoch


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_a_sweep_that_is_repeated_trains_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 0 has finished, seed 1 was stopped after 5 of 12 steps and ends as it would have without. A key is idle."""
    monkeypatch.chdir(tmp_path)
    sweep = [*SMALL, "+callbacks.ema.decay=0.9", "hydra.sweep.dir=outputs/s", "hydra.sweep.subdir='seed${seed}'"]
    assert main(["train", "-m", "seed=0,1", *sweep]) == 0
    folder, whole = tmp_path / "outputs/s/seed1", weights(tmp_path / "outputs/s/seed1")
    record = json.loads((folder / "run.json").read_text())
    again = [*SMALL, "seed=1", "trainer.max_steps=5", "test=false", "calibrate=false", "hydra.run.dir=outputs/s/seed1"]
    for file in [*folder.rglob("*.ckpt"), folder / "metrics.json", folder / "metrics.csv", folder / "run.json"]:
        file.unlink()
    assert main(["train", *again]) == 0
    (folder / "metrics.json").unlink()
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))  # as kill -9 leaves it
    capsys.readouterr()
    before = (tmp_path / "outputs/s/seed0/checkpoints/last.ckpt").stat().st_mtime_ns
    assert main(["train", "-m", "seed=0,1", "skip_finished=true", *sweep]) == 0
    told = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert "skipped: this run finished in outputs/s/seed0" in told
    assert "this run stopped half-way and goes on in outputs/s/seed1" in told
    assert (tmp_path / "outputs/s/seed0/checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert all(torch.equal(value, whole[key]) for key, value in weights(folder).items())
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 2

    # in another folder nothing is trained, and the table finds the runs all the same
    assert main(["train", "-m", "seed=0,1", "skip_finished=true", *sweep, "hydra.sweep.dir=outputs/t"]) == 0
    assert capsys.readouterr().err.count("skipped: ") == 2
    assert not list((tmp_path / "outputs/t").rglob("*.ckpt"))
    assert main(["table", "runs=outputs/t", "columns=[loss]", "format=csv"]) == 0
    losses = [json.loads((tmp_path / f"outputs/s/seed{n}/metrics.json").read_text())["test"]["loss"] for n in (0, 1)]
    assert repr(sum(losses) / 2) in capsys.readouterr().out


def test_no_place_of_a_callback_counts() -> None:
    """What conf/callbacks writes below the run folder differs in every run, whichever callbacks it has."""
    for file in sorted((conf_dir() / "callbacks").glob("*.yaml")):
        parts = yaml.safe_load(file.read_text())
        moved = json.loads(json.dumps(parts).replace("${paths.run}", "elsewhere"))
        assert fingerprint({"callbacks": parts}) == fingerprint({"callbacks": moved}), file.name
