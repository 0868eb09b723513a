"""A sweep over categories: those that are there are trained, the others named, and the table shows them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaex.cli import main

SMALL = [
    "data=mvtec",
    "name=small_${data.category}",
    "data.size=32",
    "data.batch_size=4",
    "network.width=4",
    "network.depth=2",
    "network.hidden=8",
    "network.latents=3",
    "callbacks=[attention,checkpoint]",
    "logger=none",
    "debug=fast",
]


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever real data is at hand, these runs look for theirs below the current folder."""
    monkeypatch.delenv("VAEX_DATA", raising=False)


def draw(category: Path) -> None:
    """Write 8 images to train on, 3 good ones and 3 with a bright square to test on."""
    generator = np.random.default_rng(0)
    for part, count in (("train/good", 8), ("test/good", 3), ("test/cut", 3), ("ground_truth/cut", 3)):
        (category / part).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 200, (32, 32, 3), dtype=np.uint8)
            if part == "test/cut":
                pixels[5:12, 5:12] = 255
            if part == "ground_truth/cut":
                pixels = np.zeros((32, 32), np.uint8)
                pixels[5:12, 5:12] = 255
            Image.fromarray(pixels).save(category / part / f"{number:03d}{'_mask' * (part[0] == 'g')}.png")


@pytest.mark.slow
def test_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for category in ("bottle", "tile"):
        draw(tmp_path / "data" / "mvtec" / category)
    assert main(["train", "-m", "sweep=mvtec_categories", *SMALL]) == 0
    printed = capsys.readouterr()
    skipped = [line for line in printed.err.splitlines() if "skipped" in line]
    assert len(skipped) == 13
    assert all(line.startswith("vaex train: skipped: There is no category '") for line in skipped)
    assert "'screw'" in printed.err
    assert "'bottle'" not in printed.err
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    finished = [file.parent.name for file in sorted(sweep.glob("*/metrics.json"))]
    assert finished == ["3_small_tile", "5_small_bottle"]

    table = ["table", "runs=outputs/sweeps", "columns=[pixel_auroc]", "published=[expVAE]"]
    assert main([*table, "out=table.csv"]) == 0
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {(row["category"], row["column"]): row["mean"] for row in csv.DictReader(file)}
    for number, category in ((3, "tile"), (5, "bottle")):
        measured = json.loads((sweep / f"{number}_small_{category}" / "metrics.json").read_text())["test"]
        assert float(rows[category, "attention"]) == measured["pixel_auroc_attention"]
        assert float(rows[category, "reconstruction"]) == measured["pixel_auroc_reconstruction"]
    assert rows["bottle", "expVAE"] == "0.87"
    assert len(list(sweep.glob("*/skipped.json"))) == 13
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2].partition(",")[0] for line in told] == [" left out 13 runs that were skipped"]


@pytest.mark.slow
def test_an_absent_category_is_told_once_a_sweep_and_once_by_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mvtec" / "bottle" / "train").mkdir(parents=True)
    arguments = ["-m", "skip_absent=true", "data.category=screw,pill", "seed=0,1", "hydra.sweep.dir=sweep"]
    assert main(["train", *SMALL, *arguments]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert ["'screw'" in line for line in told] == [True, False]
    assert "There is no category 'pill'" in told[1]
    reasons = [json.loads(file.read_text())["absent"] for file in Path("sweep").glob("*/skipped.json")]
    assert len(reasons) == 4
    assert {f"vaex train: skipped: {reason}" for reason in reasons} == {*told}
    for again in (["seed=0"], ["seed=0", "hydra.run.dir=sweep/own"]):  # a single run says it, whatever lies beside it
        assert main(["train", *SMALL, "skip_absent=true", "data.category=screw", *again]) == 0
        assert "skipped: There is no category 'screw'" in capsys.readouterr().err

    folder = Path("sweep", "run")
    folder.mkdir()
    (folder / "metrics.json").write_text('{"test": {"loss": 1.0}}')
    (folder / "skipped.json").write_text('{"absent": "of an earlier time"}')
    stopped = Path("sweep", "stopped")
    stopped.mkdir()
    (stopped / "run.json").write_text('{"status": "failed"}')
    (stopped / "skipped.json").write_text('{"absent": "of an earlier time"}')
    assert main(["table", "runs=sweep", "columns=[loss]", "format=csv"]) == 0
    printed = capsys.readouterr()
    assert "1.0" in printed.out
    assert printed.err.splitlines() == [
        "vaex: left out sweep/stopped: no metrics.json, the run is failed.",
        "vaex: left out 5 runs that were skipped, their data was not there: screw, pill.",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data.category=screw"], "There is no category 'screw'"),  # asked for by name: a failure
        (["-m", "data.category=screw"], "1 of the jobs failed"),
        (["-m", "data.category=screw", "skip_absent=true"], "skipped: There is no category 'screw'"),
        (["-m", "data.category=botle", "skip_absent=true"], "did you mean 'bottle'"),  # not one of the fifteen
    ],
)
def test_an_absent_category_fails_unless_it_may_be_skipped(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mvtec" / "bottle" / "train").mkdir(parents=True)
    skipped = "skip_absent=true" in arguments and "data.category=screw" in arguments
    assert main(["train", *SMALL, *arguments]) == (0 if skipped else 1)
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_without_any_category_all_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "sweep=mvtec_categories", "data.category=bottle,tile"]) == 1
    error = capsys.readouterr().err
    assert error.count("There is no MVTec AD in") == 2
    assert "2 of the jobs failed" in error


@pytest.mark.parametrize(("callbacks", "told"), [("[attention]", 1), ("[]", 1), ("[checkpoint]", 0)])
def test_a_training_that_keeps_nothing_says_so(
    callbacks: str, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL[:-1], f"callbacks={callbacks}"]) == 1  # no data here
    assert capsys.readouterr().err.count("so nothing is kept to resume from") == told


def test_the_key_of_a_callback_that_was_not_chosen_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "callbacks=[checkpoint]", "+callbacks.ema.decay=0.9"]) == 1  # no data here
    assert "vaex train: callbacks.ema is set but was not chosen, so it has no effect." in capsys.readouterr().err
