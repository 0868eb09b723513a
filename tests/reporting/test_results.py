"""Finding and reading run folders."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vaex.errors import VaexError
from vaex.reporting.results import Result, find_runs, measured, one_per_seed, read_result, values_of

Write = Callable[..., Path]
CONFIG = {"name": "vae_${data.category}", "seed": 3, "data": {"category": "nut", "seed": "${seed}"}}


def test_runs_are_found_by_folder_glob_and_file(write: Write, tmp_path: Path) -> None:
    deep, flat = write("sweep/a/0", {}), write("sweep/1", {})
    (deep / "evaluated" / ".hydra").mkdir(parents=True)  # a folder inside a run is the run's own
    assert set(find_runs([str(tmp_path / "sweep")])) == {deep, flat}
    assert find_runs([str(tmp_path / "sw*" / "*" / "0")]) == [deep]
    assert find_runs([str(tmp_path / "**" / "metrics.json")]) == [flat, deep]
    assert find_runs([str(deep), str(deep / "metrics.json"), str(tmp_path)]) == [deep, flat]


@pytest.mark.parametrize(("name", "expected"), [("nowhere", "names nothing"), ("empty", "holds no run folder")])
def test_what_holds_no_run_is_told(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VaexError, match=expected):
        find_runs([str(tmp_path / name)])


def test_a_run_is_read(write: Write) -> None:
    folder = write("run", {"val": {"loss": 2}, "test": {"loss": 1.5, "aupro_kl/cut": math.nan}}, seed=5)
    found = read_result(folder, CONFIG)
    assert found.measures["val"] == {"loss": 2.0}
    assert math.isnan(found.measures["test"]["aupro_kl/cut"])
    assert (found.name, found.family, found.category, found.seed) == ("vae_nut", "vae", "nut", 5)
    assert found.config["data.seed"] == 3
    assert found.raw["data.seed"] == "${seed}"


def test_only_keys_of_the_config_are_put_in(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    config = {"name": "${oc.env:SECRET}", "a": "${a}", "b": "${gone} ${c.d}", "c": {"d": [1, 2]}}
    found = read_result(write("run", {"test": {}}), config)
    assert found.name == "${oc.env:SECRET}"
    assert found.config["a"] == "${a}"  # a circle ends
    assert found.config["b"] == "${gone} [1, 2]"


def test_an_evaluation_is_called_by_what_it_evaluated(write: Write) -> None:
    config = {"name": "evaluate", "ckpt": "runs/x", "seed": None, "random_weights": True}
    found = read_result(write("run", {"test": {}}, seed=3), config, CONFIG)
    assert (found.name, found.seed) == ("evaluate of vae_nut", 3)
    assert found.config["data.category"] == "nut"
    assert read_result(write("other", {"test": {}}), config).name == "evaluate of runs/x"


@pytest.mark.parametrize(
    ("data", "subject"),
    [({"category": "nut"}, "nut"), ({"texture": "wool"}, "wool"), ({"category": None, "texture": None}, "own")],
)
def test_what_the_data_is_of_is_put_in(data: dict[str, str], subject: str, write: Write) -> None:
    config = {"name": "vae_${vaex.subject:}", "data": data, "other": "${vaex.tags:}", "more": "${vaex.subject:0}"}
    found = read_result(write("run", {"test": {}}), config)
    assert found.name == f"vae_{subject}"
    assert (found.config["other"], found.config["more"]) == ("${vaex.tags:}", "${vaex.subject:0}")
    assert set(found.config) == set(found.raw)
    evaluated = read_result(write("other", {"test": {}}), {"name": "evaluate", "ckpt": "x"}, config)
    assert evaluated.name == f"evaluate of vae_{subject}"


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (None, "no metrics.json, the run is failed"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        ({"test": {"loss": "low"}}, "damaged"),
        ({"test": 3}, "damaged"),
        ({"test": {"loss": True}}, "damaged"),
    ],
)
def test_a_run_that_cannot_be_read_is_told(metrics: object, expected: str, write: Write) -> None:
    with pytest.raises(VaexError, match=expected):
        read_result(write("run", metrics, status="failed"), {})


def test_the_newest_run_of_a_seed_counts(write: Write) -> None:
    runs = [
        write(name, {"test": {}}, seed=seed) for name, seed in (("new", 1), ("old", 1), ("other", 0), ("none", None))
    ]
    for age, folder in zip((10, 20, 5, 0), runs, strict=True):
        os.utime(folder / "metrics.json", (1e9 - age, 1e9 - age))
    kept, told = one_per_seed([read_result(folder, {}) for folder in runs])
    assert [found.folder.name for found in kept] == ["other", "new", "none"]
    assert len(told) == 1
    assert "old: left out" in told[0]


def test_names_and_values() -> None:
    runs = [Result(Path("a"), {"test": {"x": 1.0, "x_s/cut": 2.0}}), Result(Path("b"), {"val": {"y": 1.0}})]
    assert measured(runs, "test") == ["x"]
    assert str(values_of(runs, "test", "x")) == "[1.0, nan]"
