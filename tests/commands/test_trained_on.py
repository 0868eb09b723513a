"""A folder that changed behind a training: what each command says of it, and that others are left in peace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vaex.cli import main

QUICK = ["network.width=4", "network.depth=2", "network.hidden=8", "network.latents=2", "callbacks=[checkpoint]"]


def draw(folder: Path, number: int, name: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / (name or f"{number:02d}.png"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 40 images in ``good``, 2 in ``bad``, and the run that was trained on them."""
    place = tmp_path_factory.mktemp("trained")
    for i in range(40):
        draw(place / "good", i)
    for i in (50, 51):
        draw(place / "bad", i)
    data = ["data=folder", f"data.normal_dir={place / 'good'}", f"data.abnormal_dir={place / 'bad'}", "data.size=32"]
    arguments = [*data, *QUICK, "score=reconstruction", "trainer.max_epochs=1", f"hydra.run.dir={place / 'run'}"]
    assert main(["train", *arguments, "report=false"]) == 0
    return place


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a copy of it; the run's config names the copied images."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    config = copy / "run" / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(copy)))
    return copy


def same_data(place: Path) -> list[str]:
    """Return the arguments that name the copied images as those of the training were named."""
    return ["data=folder", f"data.normal_dir={place / 'good'}", f"data.abnormal_dir={place / 'bad'}"]


def run_json(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def evaluate(place: Path, out: Path, *more: str) -> int:
    return main(["evaluate", f"ckpt={place / 'run'}", *same_data(place), "callbacks=[]", f"hydra.run.dir={out}", *more])


def test_a_moved_folder_is_the_data_of_the_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", f"ckpt={place / 'run'}", *same_data(place)]) == 0
    assert evaluate(place, place / "out") == 0
    assert main(["train", f"resume={place / 'run'}", "trainer.max_epochs=2", "report=false"]) == 0
    error = capsys.readouterr().err
    assert "trained on" not in error
    assert "checksum of the start" not in error
    assert run_json(place / "out")["warning"] is None
    assert "data" not in run_json(place / "run")["sessions"][1]


def test_calibration_by_images_of_the_training_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(place / "good", 99, "05b.png")
    before = (place / "run" / "checkpoints" / "best.ckpt").read_bytes()
    assert main(["calibrate", f"ckpt={place / 'run'}", *same_data(place)]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in ("1 image has come and 0 gone", "held out now", "Train anew"))
    assert (place / "run" / "checkpoints" / "best.ckpt").read_bytes() == before
    # A table that holds out images which came since is the way past it
    for i in range(60, 63):
        draw(place / "new", i)
    rows = [f"good/{i:02d}.png,train" for i in range(40)] + [f"new/{i}.png,val" for i in range(60, 63)]
    (place / "list.csv").write_text("path,split\n" + "\n".join(rows) + "\n")
    table = ["data=folder", f"data.manifest={place / 'list.csv'}"]
    assert main(["calibrate", f"ckpt={place / 'run'}", *table]) == 0


def test_other_seeds_and_shares_hold_out_images_of_the_training(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("seed=1", "data.val_fraction=0.5"):
        assert main(["calibrate", f"ckpt={place / 'run'}", *same_data(place), typed]) == 1
        assert "the images are those of the training, but split otherwise" in capsys.readouterr().err


def test_a_test_of_images_of_the_training_says_so_and_keeps_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(place / "good", 99, "05b.png")
    assert evaluate(place, place / "out", "report=true") == 0
    error = capsys.readouterr().err
    assert all(part in error for part in ("The numbers of this test are too good", "1 image has come and 0 gone"))
    kept = run_json(place / "out")["warning"]
    assert kept in error
    assert kept.split(":")[0] in (place / "out" / "report.html").read_text()
    assert evaluate(place, place / "fresh", "random_weights=true", "report=false") == 0  # nothing was trained on
    assert run_json(place / "fresh")["warning"] is None


def test_held_out_images_of_the_training_say_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By another seed other images are held out, while the test is the folder it was."""
    assert evaluate(place, place / "out", "held_out=true", "seed=1", "report=false") == 0
    error = capsys.readouterr().err
    assert "The numbers of these held-out images are too good: the images are those of the training, but split" in error
    assert run_json(place / "out")["warning"] in error
    assert evaluate(place, place / "same", "held_out=true", "report=false") == 0
    assert run_json(place / "same")["warning"] is None


def test_a_run_does_not_go_on_with_other_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(place / "good", 99, "05b.png")
    before = (place / "run" / "run.json").read_bytes()
    assert main(["train", f"resume={place / 'run'}", "trainer.max_epochs=2"]) == 1
    error = capsys.readouterr().err
    assert "Cannot resume: since the training 1 image has come and 0 gone" in error
    assert (place / "run" / "run.json").read_bytes() == before


def test_a_run_goes_on_with_a_larger_test_and_keeps_the_checksum_of_its_start(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_json(place / "run")["data"]
    draw(place / "bad", 52)
    assert main(["train", f"resume={place / 'run'}", "trainer.max_epochs=2", "report=false"]) == 0
    assert "the data is not that of the start of this run" in capsys.readouterr().err
    record = run_json(place / "run")
    assert record["data"] == first
    assert record["sessions"][1]["data"]["checksum"] not in (None, first["checksum"])


@pytest.mark.slow
def test_a_checkpoint_that_remembers_nothing_is_taken_as_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (place / "run" / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        assert set(content["hyper_parameters"]["run"].pop("images")) == {"train", "val", "test"}
        torch.save(content, file)
    draw(place / "good", 99, "05b.png")
    assert main(["calibrate", f"ckpt={place / 'run'}", *same_data(place)]) == 0
    assert evaluate(place, place / "out", "report=false") == 0
    assert main(["train", f"resume={place / 'run'}", "trainer.max_epochs=2", "report=false"]) == 0
    assert "trained on" not in capsys.readouterr().err
    last = torch.load(place / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "images" not in last["hyper_parameters"]["run"]
