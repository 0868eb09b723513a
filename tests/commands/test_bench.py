"""`vaex bench`: its files, and one sentence for wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import vaex
from vaex import build
from vaex.benchmarks import cases, disentangling
from vaex.benchmarks.cases import VAEX, Case
from vaex.benchmarks.disentanglement_lib import beta_vae_by_points, factor_vae_by_votes
from vaex.benchmarks.pointing import factor_masks
from vaex.cli import main
from vaex.commands.bench import subject_of
from vaex.data import DSprites, dsprites
from vaex.errors import VaexError

SMALL: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8}


def test_attention_writes_all_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "maps": Case("Small maps", SMALL, "conv2", 2, {VAEX: 1e9}),
        "loss": Case("Step", SMALL, "conv2", 2, {}, True),
    }
    monkeypatch.setattr(cases, "CASES", small)
    out = tmp_path / "results of today"
    assert main(["bench", f"out={out}", "rounds=1"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"bench_attention.{s}" for s in ("json", "md", "txt")]
    content = json.loads((out / "bench_attention.json").read_text())
    assert set(content["cases"]) == {"maps", "loss"}
    assert content["machine"]["threads"] == 1
    assert content["versions"]["torch"]
    own = content["cases"]["maps"]["contestants"][VAEX]
    assert own["error"] <= 1e-5
    assert own["ratio"]["median"] > 0
    text = (out / "bench_attention.md").read_text()
    assert text.index("## maps") < text.index("## loss") < text.index("Machine: ")
    shown = capsys.readouterr().out
    assert "<= 1e+09 met" in shown
    assert str(out / "bench_attention.md") in shown


def test_what_is_measured_survives_a_later_case_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Case("Bad", {**SMALL, "depth": 9}, "conv2", 2)
    monkeypatch.setattr(cases, "CASES", {"good": Case("Good", SMALL, "conv2", 2), "bad": bad})
    assert main(["bench", f"out={tmp_path}", "rounds=1"]) == 1
    assert list(json.loads((tmp_path / "bench_attention.json").read_text())["cases"]) == ["good"]


METHODS = "methods=[grad_cam,{name:integrated_gradients,baseline:blurred,steps:2}]"


def test_pointing_writes_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "runs=[sprites]",
        "images=4",
        METHODS,
        "targets=[mean]",
        "match=0.1",
        f"out={tmp_path}",
    ]
    assert main(["bench", "what=pointing", *arguments]) == 0
    content = json.loads((tmp_path / "bench_pointing.json").read_text())
    (run,) = content["runs"]
    assert run["images"] == 4
    assert set(run["rows"]["grad_cam, mean"]) == {"trained", "untrained"}
    trained, fresh = (run["rows"]["grad_cam, mean"][weights]["energy_inside"] for weights in ("trained", "untrained"))
    assert len(trained) == len(run["latents"]["numbers"]) > 0
    assert trained != fresh
    text = (tmp_path / "bench_pointing.md").read_text()
    assert "## Factor-grounded pointing" in text
    assert "## Energy inside by factor, trained" in text
    assert "integrated_gradients (blurred, 2), mean" in run["rows"]
    assert "grad_cam, mean" in capsys.readouterr().out


def test_metrics_writes_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "what=metrics", "maps=8", "resolution=24", "rounds=1", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "bench_metrics.json").read_text())
    assert content["error"] <= 1e-6
    assert len(content["contestants"]) == 4
    assert "## Metrics of localisation" in (tmp_path / "bench_metrics.md").read_text()
    assert "8 maps of 24x24" in capsys.readouterr().out


def test_data_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dsprites, "GRID", {"shape": 3, "scale": 6, "orientation": 10, "x": 5, "y": 6})
    assert main(["bench", "what=data", "rounds=1", "batch_size=8", f"paths.data={tmp_path}", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "bench_data.json").read_text())
    assert (content["images"], content["batch"]) == (5400, 8)
    assert len(content["contestants"]) == 4
    assert "## Feeding dSprites" in (tmp_path / "bench_data.md").read_text()
    assert "5,400 images of 64x64 in shuffled batches of 8" in capsys.readouterr().out


def test_a_run_on_dsprites_can_be_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsprites, "GRID", {"shape": 3, "scale": 2, "orientation": 3, "x": 3, "y": 3})
    model = vaex.load("sprites")
    stored = {"_target_": "vaex.data.DSprites", "root": "${paths.data}", "val": 40, "test": 20, "cache": "memory"}
    model.config["run"] = {"data": stored}
    monkeypatch.setattr(build, "load", lambda folder: model)
    subject = subject_of("sprites", "cpu", OmegaConf.create({"data": str(tmp_path)}))
    assert isinstance(subject.data, DSprites)
    assert subject.data.folder == tmp_path / "dsprites"
    changed = factor_masks(subject.data, torch.tensor([0, 161]), ["x", "shape"])
    plain = subject.data.grid_set.draw(np.array([0, 3, 54, 161, 158, 107]))  # a step of x is 3, of shape 54
    expected = np.stack([plain[0] != plain[1], plain[0] != plain[2], plain[3] != plain[4], plain[3] != plain[5]])
    np.testing.assert_array_equal(changed.flatten(0, 1), expected)


def test_disentanglement_writes_both_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = disentangling.drawn_codes((2, 3, 5, 8))
    monkeypatch.setattr(disentangling, "drawn_codes", lambda sizes: small)
    monkeypatch.setattr(disentangling, "factor_vae_by_votes", lambda grid: factor_vae_by_votes(grid, 0, (200, 100)))
    monkeypatch.setattr(disentangling, "beta_vae_by_points", lambda grid: beta_vae_by_points(grid, 0, (200, 100), 16))
    monkeypatch.setattr(disentangling, "USUAL", ("factor_vae", "irs"))
    assert main(["bench", "what=disentanglement", "codes=240", "rounds=1", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "bench_disentanglement.json").read_text())
    assert set(content["metrics"]) == {"factor_vae", "beta_vae", "mig", "modularity", "irs"}
    for name in ("mig", "modularity", "irs"):  # of the same images
        values = content["metrics"][name]["values"]
        assert values["vaex"] == pytest.approx(values["library"], abs=1e-9)
    assert set(content["together_seconds"]) == {"factor_vae", "irs"}
    text = (tmp_path / "bench_disentanglement.md").read_text()
    assert "## Metrics of disentanglement" in text
    assert "## All metrics of one table" in text
    assert "<= 60 met" in capsys.readouterr().out


def test_codes_that_are_too_few_for_a_metric_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*_: Any, **__: Any) -> None:
        raise VaexError("Votes draw 64 images of one value.")

    monkeypatch.setattr(disentangling, "run_disentanglement", measured)
    assert main(["bench", "what=disentanglement", "codes=240", f"out={tmp_path}"]) == 1
    assert "codes=240 do not do for every metric: Votes draw 64 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["what=speed"],
            "Unknown what of vaex bench 'speed': valid names are all, attention, data, disentanglement",
        ),
        (["cases=[mnist_conv3]"], "did you mean 'mnist_conv2'"),
        (["cases=[]"], "cases must be a list of names"),
        (["cases=[3]"], "cases must be a list of names"),
        (["rounds=0"], "rounds must be at least 1"),
        (["budget=0"], "budget must be a number above 0"),
        (["device=meta"], "vaex bench measures on cpu and cuda"),
        (["what=pointing"], "Name trained runs"),
        (["what=pointing", "runs=[no/such/run]"], "No checkpoint at no/such/run"),
        (["what=pointing", "runs=[sprites]", "match=0"], "match must be a number above 0"),
        (["what=pointing", "runs=[sprites]", "images=0"], "images must be at least 1"),
        (["what=pointing", "runs=[sprites]", "methods=[gradcam]"], "did you mean 'grad_cam'"),
        (["what=pointing", "runs=[sprites]", "targets=[sum]"], "has no map per latent"),
        (["what=metrics", "maps=3"], "at least 4 maps"),
        (["what=disentanglement", "codes=0"], "codes must be at least 1"),
        (
            ["what=disentanglement", "codes=1000000"],
            "codes must be at most 737280, all images of the grid, got 1000000",
        ),
        (["what=metrics", "resolution=0"], "resolution must be at least 1"),
        (["case=[mnist_conv2]"], "Unknown key 'case'"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.strip().count("\n") == 0


def test_help_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert "vaex bench cases=[mnist_conv2]" in text
    assert "what=pointing" in text
    assert "what=metrics" in text
    assert "what=data" in text
    assert "what=disentanglement" in text


@pytest.mark.slow
def test_training_steps_are_measured_and_written(tmp_path: Path) -> None:
    assert main(["bench", "what=train", "rounds=1", "batch_size=2", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "bench_train.json").read_text())
    assert (len(content["steps"]), len(content["attention"])) == (5, 4)
    assert content["times_hand_written"]["median"] > 0
    assert "times as fast as the reproductions' loop" in (tmp_path / "bench_train.md").read_text()
    assert main(["bench", "what=train", "batch_size=1", f"out={tmp_path}"]) == 1


@pytest.mark.slow
def test_faithfulness_writes_all_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "runs=[sprites]",
        "images=3",
        "methods=[hires_cam]",
        "targets=[mean,sum]",
        "match=0.7",
        f"out={tmp_path}",
    ]
    assert main(["bench", "what=faithfulness", *arguments]) == 0
    content = json.loads((tmp_path / "bench_faithfulness.json").read_text())
    (run,), (whole,) = content["runs"], content["whole_code"]
    assert (run["images"], whole["images"], content["batch"]) == (3, 3, 64)
    trained, fresh = (run["rows"]["hires_cam, mean"][weights]["deletion"] for weights in ("trained", "untrained"))
    assert len(trained) == len(run["latents"]["numbers"]) > 0
    assert trained != fresh
    assert run["rows"]["control: noise"]["trained"]["randomisation"] == [1.0] * len(trained)
    assert "hires_cam, sum" not in run["rows"]
    assert len(whole["rows"]["hires_cam, sum"]["trained"]["deletion"]) == 1
    assert whole["rows"]["control: noise"]["untrained"]["randomisation"] == [1.0]
    text = (tmp_path / "bench_faithfulness.md").read_text()
    assert "## Faithfulness, trained" in text
    assert "## Faithfulness, untrained" in text
    assert "## Faithfulness, whole code, trained" in text
    assert "maps of the whole code." in text
    assert "control: noise" in text
    assert "Faithfulness, trained" in capsys.readouterr().out
    assert main(["bench", "what=faithfulness", *arguments, "fill=blured"]) == 1
    assert "did you mean 'blurred'" in capsys.readouterr().err
    assert main(["bench", "what=faithfulness"]) == 1
    assert "Name trained runs: vaex bench what=faithfulness" in capsys.readouterr().err


def test_kinds_need_runs_that_were_trained_for_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "what=kinds", f"out={tmp_path}"]) == 1
    assert "Name trained runs: vaex bench what=kinds" in capsys.readouterr().err
    assert main(["bench", "what=kinds", "runs=[sprites]", f"out={tmp_path}"]) == 1
    assert "sprites was not trained to tell kinds of defects" in capsys.readouterr().err


def test_scoring_times_the_scores_that_a_run_can_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "what=scoring", "runs=[sprites]", "rounds=1", "budget=0.01", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "bench_scoring.json").read_text())
    (run,) = content["runs"]
    assert {"encoder", "its code", "attention"} <= set(run["contestants"])
    assert run["contestants"]["encoder"]["ratio"]["median"] == 1
    assert run["goal"] is None  # which is one of features
    assert "times the floor" in capsys.readouterr().out
    assert main(["bench", "what=scoring", f"out={tmp_path}"]) == 1
    assert "Name trained runs: vaex bench what=scoring" in capsys.readouterr().err
