"""`vaex train` as a user runs it: the run folder, reproducibility, resume, kills, several processes."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import vaex
from vaex.cli import main
from vaex.commands.train import compared_at, report

SMALL = [
    "data.size=32",
    "data.grid={shape: 2, scale: 2, orientation: 1, x: 6, y: 6}",
    "data.val=16",
    "data.test=16",
    "data.batch_size=8",
    "data.eval_batch_size=8",
    "network.width=4",
    "network.depth=3",
    "network.hidden=8",
    "network.latents=3",
    "trainer.log_every_n_steps=1",
    "callbacks=[attention,checkpoint]",
]  # 112 training images, 14 steps an epoch


QUICK = [
    *("data.size=32", "network.width=4", "network.depth=2", "network.hidden=8", "network.latents=2"),
    *("callbacks=[checkpoint]", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "report=false"),
    *("calibration_images=4", "trainer.limit_val_batches=1"),
]


def train(folder: Path, *overrides: str) -> int:
    return main(["train", *SMALL, *overrides, f"hydra.run.dir={folder}"])


def process(folder: Path, *overrides: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vaex", "train", *SMALL, *overrides, f"hydra.run.dir={folder}"]
    # The same number of threads as in this process: another one adds up in another order
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, "trainer.max_epochs=2") == 0
    return folder


def test_run_folder(whole: Path) -> None:
    assert (whole / ".hydra" / "config.yaml").is_file()
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (whole / "figures" / "attention_test.png").stat().st_size > 1000
    assert (whole / "figures" / "attention_val_epoch0001.png").is_file()
    maps = np.load(whole / "maps" / "attention_test.npz")
    assert maps["maps"].shape[1:] == (3, 32, 32)
    record = json.loads((whole / "run.json").read_text())
    assert record["resolution"] == 32
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["command"].startswith("vaex ")
    assert {"torch", "lightning", "vaex", "python"} <= set(record["versions"])
    assert record["machine"]["cores"] == os.cpu_count()
    assert len(record["data"]["checksum"]) >= 32
    assert record["wall_seconds"] > 0
    assert "commit" in record
    assert "dirty" in record


def test_metrics_json_is_flat_and_agrees_with_the_history(whole: Path) -> None:
    metrics = json.loads((whole / "metrics.json").read_text())
    assert set(metrics) == {"val", "test"}
    for stage in metrics.values():
        assert {"loss", "reconstruction", "kl", "overlap", "entropy", "active_latents", "pointing_game"} <= set(stage)
        assert all("/" not in name for name in stage)
    history = [float(row["val/loss"]) for row in rows(whole) if row["val/loss"]]
    assert metrics["val"]["loss"] == pytest.approx(min(history), rel=1e-6)
    assert sum(bool(row["train/loss"]) for row in rows(whole)) == 28


def test_load_rebuilds_the_model(whole: Path) -> None:
    model = vaex.load(whole)
    best = weights(whole, "best.ckpt")
    assert same({f"vae.{key}": value for key, value in model.state_dict().items()}, best)
    assert not model.training
    assert model.config["run"]["data"]["size"] == 32


@pytest.mark.slow
def test_same_seed_same_weights_whatever_the_workers(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "workers", "trainer.max_epochs=2", "data.num_workers=2", "test=false") == 0
    assert same(weights(whole), weights(tmp_path / "workers"))
    assert train(tmp_path / "seed", "trainer.max_epochs=2", "seed=1", "test=false") == 0
    assert not same(weights(whole), weights(tmp_path / "seed"))


def test_resume_from_the_middle_of_an_epoch_is_exact(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, "trainer.max_epochs=2", "trainer.max_steps=19", "test=false") == 0
    assert main(["train", f"resume={folder}", "trainer.max_steps=-1", "test=true"]) == 0
    assert same(weights(whole), weights(folder))
    steps = [int(row["step"]) for row in rows(folder) if row["train/loss"]]
    assert steps == sorted(set(steps)) == list(range(28))
    expected = [row["train/loss"] for row in rows(whole) if row["train/loss"]]
    assert [row["train/loss"] for row in rows(folder) if row["train/loss"]] == expected
    record = json.loads((folder / "run.json").read_text())
    assert len(record["sessions"]) == 2
    assert record["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_weights(whole: Path, tmp_path: Path, kind: signal.Signals) -> None:
    folder = tmp_path / "run"
    running = process(folder, "trainer.max_epochs=40", "callbacks.last_checkpoint.every_n_steps=3", "test=false")
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(kind)
    _, err = running.communicate(timeout=60)
    assert (folder / "checkpoints" / "last.ckpt").is_file(), err
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    if kind != signal.SIGKILL:
        assert running.returncode != 0
        assert "Traceback" not in err
        assert "Continue with: vaex train resume=" in err
        assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    if step > 28:
        pytest.fail(f"the run was not stopped early enough to compare (step {step})")
    assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 0
    assert same(weights(whole), weights(folder))


def test_nan_loss_stops_with_the_step_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train(folder, "trainer.max_epochs=3", "optim.lr=1e30", "test=false") == 1
    error = capsys.readouterr().err
    assert "The loss is" in error
    assert "at step" in error
    assert "Traceback" not in error
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"


def test_the_resolution_is_printed_below_numbers_that_count_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(tmp_path, {"test": {"loss": 1.0, "aupro_own/cut": 0.5}}, "title", 48, page=False)
    assert "compared at 48 pixels a side" in capsys.readouterr().out
    report(tmp_path, {"test": {"loss": 1.0, "image_auroc": 0.5}}, "title", 48, page=False)
    assert "pixels a side" not in capsys.readouterr().out
    report(tmp_path, {"test": {"image_auroc": math.nan}}, "title", 48, page=False)
    assert "nan stands where only normal or only anomalous" in capsys.readouterr().out
    data = SimpleNamespace(shape=(3, 64, 64))
    assert compared_at(OmegaConf.create({"metrics": {"resolution": None}}), data) == 64
    assert compared_at(OmegaConf.create({"metrics": {"resolution": 256}}), data) == 256


def test_training_works_without_the_attention_callback(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # an experiment may set keys of a callback that is not chosen
    others = ["callbacks=[checkpoint]", "+callbacks.attention.every_n_epochs=2"]
    assert train(folder, "trainer.max_epochs=1", *others) == 0
    assert not list(folder.glob("figures/attention*"))
    assert "loss" in json.loads((folder / "metrics.json").read_text())["test"]


def test_a_wrong_layer_stops_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", "attention.layer=conv9") == 1
    error = capsys.readouterr().err
    assert "Layer 'conv9' does not exist" in error
    assert "encoder.conv1" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (["data.test=0"], "the test split of Sprites has no images; check data.test."),
        (["data=defects", "data.test_good=0", "data.test_defects=0"], "check data.test_good and data.test_defects."),
        (["data=folder", "data.normal_dir={good}", "data.test_fraction=0"], "check data.test_fraction."),
    ],
)
def test_a_test_without_images_is_told_before_training(
    data: list[str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 50 * i, dtype=np.uint8)).save(good / f"{i}.png")
    arguments = [*QUICK, *(part.format(good=good) for part in data), f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["train", *arguments]) == 1
    error = capsys.readouterr().err
    assert key.lower() in error.lower()
    assert "Or train without a test: test=false." in error
    assert not list(tmp_path.rglob("*.ckpt"))
    assert main(["train", *arguments, "test=false"]) == 0


@pytest.mark.slow
def test_multirun_runs_every_job_and_names_the_failed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [f"hydra.sweep.dir={tmp_path}", "test=false", "trainer.max_epochs=1"]
    assert main(["train", "-m", *SMALL, *sweep, "network.latents=-1,2"]) == 1
    error = capsys.readouterr().err
    assert "job 0 (" in error
    assert "network.latents=-1" in error
    assert "network.latents must be at least 1" in error
    assert "1 of the jobs failed" in error
    assert (tmp_path / "1" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = process(folder, "trainer=ddp_cpu", "trainer.max_epochs=1")
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-3000:]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["loss"] > 0
    assert "Run folder" in out
    assert len(list((folder / "checkpoints").iterdir())) == 2
    single = tmp_path / "single"
    assert main(["evaluate", f"ckpt={folder}", f"hydra.run.dir={single}"]) == 0
    alone = json.loads((single / "metrics.json").read_text())["test"]
    for name in ("overlap", "entropy", "pointing_game"):
        assert metrics["test"][name] == pytest.approx(alone[name], rel=1e-4)


@pytest.mark.slow
def test_fashion_mnist_and_mnist_train_from_real_files(vaex_data: Path, tmp_path: Path) -> None:
    common = ["data=mnist", "network=mnist", "objective=vae", f"paths.data={vaex_data}", "debug=fast"]
    for name in ("mnist", "fashion_mnist"):
        folder = tmp_path / name
        options = [f"data.name={name}", "data.normal_class=1", "data.eval_batch_size=32", f"hydra.run.dir={folder}"]
        assert main(["train", *common, *options]) == 0
        test = json.loads((folder / "metrics.json").read_text())["test"]
        assert {"image_auroc", "image_auroc_kl", "image_auroc_reconstruction", "image_auroc_attention"} <= set(test)
        assert test["image_auroc"] == test["image_auroc_attention"]


@pytest.mark.slow
def test_averaged_weights_are_those_that_are_tested(tmp_path: Path) -> None:
    folder, again = tmp_path / "run", tmp_path / "again"
    options = ["callbacks=[checkpoint,ema]", "callbacks.ema.decay=0.5", "trainer.max_epochs=2", "optim.lr=0.05"]
    assert train(folder, *options) == 0
    assert main(["evaluate", f"ckpt={folder}", f"hydra.run.dir={again}", "callbacks=[]"]) == 0
    tested = json.loads((folder / "metrics.json").read_text())["test"]["loss"]
    assert tested == pytest.approx(json.loads((again / "metrics.json").read_text())["test"]["loss"], rel=1e-6)
    raw = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["current_model_state"]
    assert not same(raw, weights(folder, "best.ckpt"))


@pytest.mark.slow
def test_a_moved_run_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved run, copied"
    assert train(folder, "trainer.max_epochs=1", "optim.lr=0.01", "test=false") == 0
    shutil.copytree(folder, moved)
    last = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    for state in last["optimizer_states"]:
        for group in state["param_groups"]:
            group["lr"] = group["initial_lr"] = 10.0  # training goes astray from here on
    for schedule in last["lr_schedulers"]:
        schedule["base_lrs"] = [10.0]
    torch.save(last, moved / "checkpoints" / "last.ckpt")
    before = weights(moved, "best.ckpt")
    assert main(["train", f"resume={moved}", "trainer.max_epochs=2", "test=false"]) == 0
    assert same(before, weights(moved, "best.ckpt"))
    assert not same(before, weights(moved))


@pytest.mark.slow
def test_resume_keeps_what_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(folder, "trainer.max_epochs=1", "test=false") == 0
    for change in ("optim.lr=5", "network.latents=4", "trainer=auto", "callbacks=[checkpoint]", "seed=3"):
        assert main(["train", f"resume={folder}", change]) == 1
        error = capsys.readouterr().err
        assert f"'{change}' cannot change in a resumed run" in error
        assert "Traceback" not in error
    assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 0
    assert main(["train", f"resume={folder}"]) == 0  # max_epochs=2 is remembered: nothing is left to do
    record = json.loads((folder / "run.json").read_text())
    assert record["sessions"][1]["command"] == shlex.join(["vaex", "train", f"resume={folder}", "trainer.max_epochs=2"])
    assert not list(folder.glob("*.log"))


def test_without_a_checkpoint_the_last_weights_are_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(folder, "trainer.max_epochs=1", "callbacks=[]", "logger=[]") == 0
    assert set(json.loads((folder / "metrics.json").read_text())) == {"val", "test"}
    printed = capsys.readouterr()
    assert "last weights" in printed.out
    assert "so nothing is kept to resume from" in printed.err
    assert not list(folder.rglob("*.ckpt"))


@pytest.mark.slow
def test_two_runs_at_once_have_two_folders(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vaex", "train", *SMALL, f"paths.output={tmp_path}", "debug=fast", "test=false"]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert len(list(tmp_path.glob("*/*/run.json"))) == 2


@pytest.mark.parametrize(
    "late", [["trainer.max_steps=2", "trainer.val_check_interval=99", "trainer.check_val_every_n_epoch=null"], []]
)
def test_a_run_that_nobody_searches_with_does_not_speak_of_optimized_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], late: list[str]
) -> None:
    fewer = ("callbacks=[]", "logger=[]", "calibrate=false", "test=false", "report=false")
    name = "val/loss" if late else "val/foo"
    assert train(tmp_path / "run", "trainer.max_epochs=1", f"optimized_metric={name}", *late, *fewer) == 0
    printed = capsys.readouterr()
    assert "optimized_metric" not in printed.err
    assert ("Nothing was measured: the run ended before its first validation" in printed.out) == bool(late)
