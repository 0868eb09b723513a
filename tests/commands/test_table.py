"""`vaex table`: formats, files, what is left out, and one sentence for wrong input."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path

import pytest

from vaex.cli import main

AUROC = {"bottle": (0.98, 0.96, 0.97), "screw": (0.99, 0.95, 0.91)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder of six runs, one whose metrics are cut short, and one that did not finish."""
    for category, values in AUROC.items():
        for seed, value in enumerate(values):
            folder = tmp_path / "all runs" / f"{category}_{seed}"
            (folder / ".hydra").mkdir(parents=True)
            (folder / ".hydra" / "config.yaml").write_text(
                f"name: vae_${{data.category}}\nseed: {seed}\ndata: {{category: {category}, seed: '${{seed}}'}}\n"
                "score: {name: kl}\n"
            )
            test = {"pixel_auroc": value, "pixel_auroc_kl": value, "pixel_auroc_mean_map": 0.5, "loss": 3.0}
            (folder / "metrics.json").write_text(json.dumps({"test": test, "val": {"loss": 2.0}}))
    (tmp_path / "all runs" / "cut").mkdir()
    (tmp_path / "all runs" / "cut" / "metrics.json").write_text('{"test": {"lo')
    (tmp_path / "all runs" / "stopped" / ".hydra").mkdir(parents=True)
    return tmp_path / "all runs"


def cells(text: str) -> dict[tuple[str, str], dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return {(row.get("category") or f"{row['experiment']} {row['score']}", row["column"]): row for row in rows}


def test_categories_beside_published_figures(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", f"runs={runs}", "published=true", "format=csv"]) == 0
    printed = capsys.readouterr()
    found = cells(printed.out)
    for category, values in AUROC.items():
        assert float(found[category, "kl"]["mean"]) == pytest.approx(statistics.mean(values))
        assert found[category, "kl"]["n"] == "3"
        assert found[category, "mean_map"]["mean"] == "0.5"
    by_seed = [statistics.mean(pair) for pair in zip(*AUROC.values(), strict=True)]
    assert float(found["mean of all (2 of 15)", "kl"]["std"]) == pytest.approx(statistics.stdev(by_seed))
    assert found["screw", "expVAE"]["mean"] == "0.97"
    assert found["screw", "expVAE"]["n"] == ""
    assert "cut: metrics.json is damaged" in printed.err
    assert "stopped: no metrics.json" in printed.err


def test_a_row_for_each_run_and_score(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", f"runs={runs}", "layout=runs", "columns=[pixel_auroc,loss]", "interval=bootstrap"]) == 0
    text = capsys.readouterr().out
    assert "0.9700 ± 0.0100 [0.9600, 0.9800]" in text  # of three values 1/27 of the resamples are the largest alone
    assert text.count("vae_bottle") == 2
    assert "percentile bootstrap" in text


def test_own_score_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", f"runs={runs}", "layout=runs", "controls=false", "interval=none", "format=markdown"]) == 0
    text = capsys.readouterr().out
    assert "| vae_bottle | kl | 3 | 0.9700 ± 0.0100 |" in text
    assert "mean_map" not in text


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.md", "## MVTec AD"), ("a.tex", r"\begin{table}"), ("a.csv", "table,"), ("a.txt", "MVTec AD")],
)
def test_the_suffix_names_the_format(name: str, start: str, runs: Path, tmp_path: Path) -> None:
    assert main(["table", f"runs={runs}/*", f"out={tmp_path / 'my tables' / name}"]) == 0
    assert (tmp_path / "my tables" / name).read_text().startswith(start)


def test_a_picture_lies_beside_the_table(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", f"runs={runs}", f"out={tmp_path / 'a.md'}", "plot=true"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "a.md"), str(tmp_path / "a.png")]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_paired_tests_and_one_measure_against_another(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both categories have seeds 0, 1 and 2; the differences of bottle and screw are -0.01, 0.01 and 0.06."""
    arguments = ["layout=runs", "columns=[pixel_auroc]", "compare=vae_screw", "plot=[loss,val/loss]"]
    assert main(["table", f"runs={runs}", *arguments, "out=" + str(tmp_path / "a.csv")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    rows = [row for row in csv.DictReader((tmp_path / "a.csv").open()) if row["against"]]
    assert {row["column"]: row["experiment"] for row in rows}["difference"] == "vae_bottle"
    found = {row["column"]: float(row["mean"]) for row in rows}
    assert found["difference"] == pytest.approx(0.02)
    t = 0.02 / (statistics.stdev([-0.01, 0.01, 0.06]) / 3**0.5)
    assert found["p (t)"] == pytest.approx(1 - t / (2 + t * t) ** 0.5)
    for form in ("markdown", "latex"):
        assert main(["table", f"runs={runs}", *arguments[:2], "compare=all", f"format={form}"]) == 0
        assert "paired differences over seeds" in capsys.readouterr().out


def test_a_list_of_runs(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    assert main(["table", "runs=[bottle_0,bottle_1]", "columns=loss", "stage=val"]) == 0
    assert "2.0000 ± 0.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Name run folders"),
        (["runs=nowhere"], "runs=nowhere names nothing"),
        (["runs=stopped"], "No run is left"),
        (["runs=.", "columns=[pixel_aurok]"], "did you mean 'pixel_auroc'"),
        (["runs=.", "columns=[]"], "columns must be a list"),
        (["runs=.", "interval=student"], "Unknown interval 'student'"),
        (["runs=.", "confidence=95"], "confidence must lie between 0 and 1"),
        (["runs=.", "digits=-1"], "digits must be a whole number from 0 to 17, got -1"),
        (["runs=.", "digits=2.5"], "digits must be a whole number from 0 to 17, got 2.5"),
        (["runs=.", "format=html"], "Unknown format of vaex table 'html'"),
        (["runs=.", "layout=rows"], "Unknown layout of vaex table 'rows'"),
        (["runs=.", "layout=runs", "published=true"], "stands beside MVTec AD by category"),
        (["runs=.", "stage=val", "published=true"], "figures of tests, and stage=val is none; leave published=null"),
        (["runs=.", "published=[PatchKore]"], "did you mean 'PatchCore'"),
        (["runs=.", "stage=train"], "measured are test, val"),
        (["runs=.", "by=[network.size]"], "Unknown key in by 'network.size'"),
        (["runs=.", "compare=none"], "Unknown experiment to compare with 'none'"),
        (["runs=.", "plot=[loss]"], "plot=[X,Y] takes two measures"),
        (["runs=.", "plot=[loss,pixel_aurok]"], "did you mean 'pixel_auroc'"),
        (["runs=.", "metrics=[loss]"], "vaex table has no choices of 'metrics'"),
        (["runs=.", "colums=[loss]"], "did you mean 'columns'"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str],
    expected: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(runs)
    assert main(["table", *arguments]) == 1
    printed = capsys.readouterr()
    assert not printed.out
    told = [line for line in printed.err.splitlines() if "left out" not in line]
    assert len(told) == 1
    assert expected in told[0]


def test_a_config_that_cannot_be_read_leaves_the_run_its_folders_name(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "bottle_0" / ".hydra" / "config.yaml").write_text("name: [")
    assert main(["table", f"runs={runs / 'bottle_0'}", "columns=[loss]"]) == 0
    printed = capsys.readouterr()
    assert "bottle_0" in printed.out
    assert "config.yaml cannot be read" in printed.err


def test_an_evaluation_is_told_by_what_it_evaluated(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, checkpoint in enumerate([runs / "screw_0", runs / "screw_0" / "checkpoints" / "best.ckpt"]):
        folder = tmp_path / "evaluated" / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(f"name: evaluate\nseed: null\nckpt: {checkpoint}\n")
        (folder / "run.json").write_text(json.dumps({"seed": number}))
        (folder / "metrics.json").write_text(json.dumps({"test": {"loss": number}}))
    assert main(["table", f"runs={tmp_path / 'evaluated'}", "columns=[loss]", "interval=none", "format=markdown"]) == 0
    assert "| evaluate of vae_screw | 2 | 0.5000 ± 0.7071 |" in capsys.readouterr().out
