"""Kills, full disks, damaged files and signals: what was trained stays, and a resume goes on to the same weights."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks.conftest import differences
from tests.commands.killing import KILLS, SMALL
from vaex.callbacks import LastCheckpoint
from vaex.cli import main
from vaex.commands import alone, assembly

SHORT = [*(option for option in SMALL if "max_epochs" not in option), "trainer.max_epochs=2", "callbacks=[checkpoint]"]
LAST = Path("checkpoints") / "last.ckpt"


def content(file: Path) -> dict[str, Any]:
    whole = torch.load(file, weights_only=True)
    return {name: whole[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


def losses(folder: Path) -> list[tuple[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All trainings that are killed, in one process tree."""
    place = tmp_path_factory.mktemp("killing")
    command = [sys.executable, "-m", "tests.commands.killing", str(place), str(int.from_bytes(os.urandom(4)))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    told = "\n".join(path.read_text()[-2000:] for path in place.glob("*.log"))
    assert done.returncode == 0, f"{command[-1]}: {done.stderr[-2000:]}\n{told}"
    return place, json.loads((place / "result.json").read_text())


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_weights(scenes: tuple[Path, dict[str, Any]]) -> None:
    place, result = scenes
    assert (result["whole"], result["finished"]) == (0, 0)
    assert len(result["kills"]) == KILLS
    whole, killed = place / "whole", place / "killed"
    assert content(whole / LAST)["global_step"] == 72
    for name in (LAST, LAST.with_name("best.ckpt")):
        assert differences(content(whole / name), content(killed / name)) == [], result["kills"]
    assert losses(whole) == losses(killed), result["kills"]
    assert json.loads((whole / "metrics.json").read_text()) == json.loads((killed / "metrics.json").read_text())
    assert not [path for path in killed.rglob("*") if path.name.endswith(".tmp")]
    assert "Traceback" not in (place / "killed.log").read_text()


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_a_few_steps(scenes: tuple[Path, dict[str, Any]]) -> None:
    place, result = scenes
    filled = result["filled"]
    assert filled["status"] == 1
    said = [line for line in filled["said"].splitlines() if line.startswith("vaex train: ")]
    assert len(said) == 1
    assert "(File too large); the last good one is kept." in said[0]
    assert "Traceback" not in filled["said"]
    assert filled["kept"] == ["best.ckpt", "last.ckpt"]
    assert filled["again"] == 0
    assert differences(content(place / "whole" / LAST), content(place / "filled" / LAST)) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of 6 steps without alone."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *SHORT, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "phase"),
    [(signal.SIGINT, 130, "fit"), (signal.SIGTERM, 143, "fit"), (signal.SIGTERM, 143, "calibrate")],
)
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals,
    status: int,
    phase: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    original = LastCheckpoint.on_train_batch_start

    def send_in_fit(self: Any, trainer: Any, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.global_step == 7:
            os.kill(os.getpid(), number)

    def send_in_calibrate(self: Any, folder: Path) -> None:
        os.kill(os.getpid(), number)

    if phase == "fit":
        monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", send_in_fit)
    else:
        monkeypatch.setattr(assembly.Run, "calibrate", send_in_calibrate)
    folder = tmp_path / "run"
    assert main(["train", *SHORT, f"hydra.run.dir={folder}"]) == status
    monkeypatch.undo()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    error = capsys.readouterr().err
    assert f"Continue with: vaex train resume={folder}" in error
    assert "Traceback" not in error
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert content(folder / LAST)["global_step"] == (8 if phase == "fit" else 12)
    assert main(["train", f"resume={folder}"]) == 0
    assert differences(content(whole / LAST), content(folder / LAST)) == []
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())


def test_a_run_stopped_before_its_first_checkpoint_starts_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole / ".hydra", folder / ".hydra")
    assert main(["train", f"resume={folder}"]) == 0
    assert differences(content(whole / LAST), content(folder / LAST)) == []
    assert losses(folder) == losses(whole)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoints/last.ckpt", r"last\.ckpt is cut short, damaged .* best\.ckpt beside it is whole: copy it"),
        (".hydra/config.yaml", r"config\.yaml is cut short or damaged, so the run cannot go on .* init="),
        ("run.json", r"run\.json is damaged; move it away"),
    ],
)
def test_a_file_cut_short_ends_in_one_sentence_and_costs_nothing_else(
    name: str, message: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    cut(folder / name)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts}
    assert main(["train", f"resume={folder}", "trainer.max_epochs=3"]) == 1
    error = capsys.readouterr().err
    (said,) = error.strip().splitlines()
    assert re.search(message, said)
    assert {path: path.read_bytes() for path in files} == files


def test_the_advice_for_a_damaged_last_checkpoint_works(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.copy(folder / "checkpoints" / "best.ckpt", folder / LAST)
    assert main(["train", f"resume={folder}", "trainer.max_epochs=3", "test=false"]) == 0
    assert content(folder / LAST)["global_step"] == 18


def test_two_processes_do_not_train_in_one_folder(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    monkeypatch.setattr(alone, "WAIT", 0.0)
    other = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(["train", f"resume={folder}", "trainer.max_epochs=3"]) == 1
    finally:
        os.close(other)
    assert f"Another process trains in {folder}; wait for it" in capsys.readouterr().err
    assert content(folder / LAST)["global_step"] == 12


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    left = [tmp_path / ".run.json.17.tmp", tmp_path / "checkpoints" / ".last.ckpt.4711.tmp"]
    own = [tmp_path / "x.tmp", tmp_path / ".hidden.tmp", tmp_path / "checkpoints" / "last.ckpt"]
    for path in left + own:
        path.write_bytes(b"x")
    (tmp_path / "pictures").mkdir()
    left.append(tmp_path / "pictures" / f".a.{'0a' * 16}.tmp")
    left[-1].write_bytes(b"x")
    with alone.alone_in(tmp_path, below=("checkpoints", "pictures")):
        assert [path.exists() for path in left] == [False, False, False]
        assert all(path.exists() for path in own)
