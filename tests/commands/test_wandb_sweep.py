"""The definitions for `wandb sweep`: what wandb's agent would start, composed, and run as the agent runs it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vaex.cli import main
from vaex.config import conf_dir

DEFINITIONS = sorted((conf_dir() / "sweep").glob("wandb_*.yaml"))

SMALL = [  # in the place where a definition has its arguments
    *("data.size=32", "data.grid={shape: 2, scale: 2, orientation: 1, x: 4, y: 4}", "data.val=16", "data.test=16"),
    *("data.batch_size=8", "network.width=4", "network.depth=3", "network.hidden=8", "trainer.max_epochs=1"),
    *("logger.wandb.offline=true", "test=false", "calibrate=false", "callbacks=[checkpoint]"),
]


def definition(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def command_of(content: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Return what wandb's agent starts for ``values``, made by wandb's own functions."""
    from wandb.sdk.launch.sweeps import utils

    wrapped = {"args": {name: {"value": value} for name, value in values.items()}}
    parts = {"env": ["/usr/bin/env"], "program": [content["program"]], **utils.create_sweep_command_args(wrapped)}
    found: list[str] = []
    for word in utils.create_sweep_command(list(content["command"])):
        found += parts[word[2:-1]] if word.startswith("${") else [word]
    return found


def candidates(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return settings in which each parameter takes its first three values, or the ends of its range."""
    choices = {name: part.get("values") or [part["min"], part["max"]] for name, part in content["parameters"].items()}
    most = max(len(values) for values in choices.values())
    return [{name: values[n % len(values)] for name, values in choices.items()} for n in range(min(most, 3))]


@pytest.mark.slow
@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_wandb_takes_the_definition(path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    content = definition(path)
    assert load_sweep_config(str(path)) == content
    assert content["method"] in {"grid", "random", "bayes"}
    assert content["metric"]["goal"] in {"minimize", "maximize"}
    ranges = [name for name, part in content["parameters"].items() if "values" not in part]
    assert not (content["method"] == "grid" and ranges)


@pytest.mark.slow
@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_each_command_line_of_the_agent_composes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = definition(path)
    for values in candidates(content):
        env, program, *words = command_of(content, values)
        assert (env, program, words[0]) == ("/usr/bin/env", "vaex", "train")
        assert main([*words, "--cfg", "job"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        for name, value in values.items():
            found: Any = config
            for key in name.split("."):
                found = found[key]
            assert (found["name"] if isinstance(found, dict) else found) == value, name
        assert set(config["logger"]) == {"csv", "wandb"}


def test_every_category_is_named() -> None:
    from vaex.data.mvtec import CATEGORIES

    (path,) = [path for path in DEFINITIONS if path.stem == "wandb_mvtec"]
    assert definition(path)["parameters"]["data.category"]["values"] == list(CATEGORIES)


def test_hydra_does_not_take_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sweep=wandb_beta"]) == 1
    error = capsys.readouterr().err
    assert "sweep=wandb_beta is a definition for wandb: run `wandb sweep " in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_the_agent_runs_the_installed_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_records: Callable[[Path], list[Any]]
) -> None:
    """wandb's Agent itself builds and starts the process, as on the server's order; no server is asked."""
    from wandb.wandb_agent import Agent

    (path,) = [path for path in DEFINITIONS if path.stem == "wandb_seeds"]
    content = definition(path)
    place = content["command"].index("${args_no_hyphens}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"WANDB_SWEEP_ID": "sweep7", "WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them for good
        monkeypatch.setenv(name, "")
    agent: Any = Agent(api=None, queue=None, sweep_id="sweep7")
    agent._sweep_command = [*content["command"][:place], *SMALL, *content["command"][place:]]
    order = {
        "program": content["program"],
        "run_id": "run42",
        "args": {"objective": {"value": "vae"}, "seed": {"value": 3}},
    }
    agent._command_run(order)
    process = agent._run_processes["run42"]
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() == 0
    (records,) = wandb_records(tmp_path / "outputs")
    assert (records.run.run_id, records.run.sweep_id, records.exit_code) == ("run42", "sweep7", 0)
    assert (records.config["seed"], records.config["objective"]) == (3, "vae")  # what the sweep names is its own
    assert (records.config["objective.name"], records.config["objective.free_bits"]) == ("vae", 0.0)
    assert records.config["network"]["latents"] == 10
    assert records.rows("val/loss")
    (folder,) = (tmp_path / "outputs").glob("vae/*/metrics.json")
    assert records.summary["val/loss"] == pytest.approx(json.loads(folder.read_text())["val"]["loss"], rel=1e-6)
