"""`vaex bench what=all`: all tables in one document, also where a benchmark fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from vaex.benchmarks.table import Table
from vaex.cli import main
from vaex.commands import bench
from vaex.commands.bench import origin, write
from vaex.errors import VaexError

PARTS = ("attention", "pointing", "metrics", "data", "training", "disentanglement", "faithfulness", "scoring")
SEEN: dict[str, object] = {}


def measured(config: DictConfig) -> None:
    """Stand for a benchmark; it tells by its table that it ran."""
    SEEN[config.what] = config.runs
    table = Table(f"Speed of {config.what}", ("", "ms"), ((config.what, "1.5"),), ("A note.",))
    write(config, [table], {**origin(), "seconds": {"vaex": 0.0015}})


def broken(config: DictConfig) -> None:
    """Stand for a benchmark that cannot be made."""
    raise VaexError("There is no such clock.")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PARTS:
        monkeypatch.setattr(bench, f"bench_{name}", measured)
    SEEN.clear()


@pytest.mark.usefixtures("parts")
def test_all_tables_are_in_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "what=all", f"out={tmp_path}"]) == 0
    names = list(SEEN)
    assert {"attention", "pointing", "metrics", "data", "train", "disentanglement"} <= set(names)
    # the shipped model, where no run is named
    assert SEEN["pointing"] == SEEN["faithfulness"] == SEEN["scoring"] == ["sprites"]
    assert SEEN["metrics"] is None
    content = json.loads((tmp_path / "bench_all.json").read_text())
    assert list(content["parts"]) == sorted(names)  # keys are sorted
    assert content["parts"]["data"] == {"seconds": {"vaex": 0.0015}}  # machine and versions stand once
    assert content["machine"]["cores"] > 0
    assert content["versions"]["torch"]
    assert [table["title"] for table in content["tables"]] == [f"Speed of {name}" for name in names]
    for suffix, heading in (("md", "## Speed of {}"), ("txt", "Speed of {}")):
        lines = (tmp_path / f"bench_all.{suffix}").read_text().splitlines()
        places = [lines.index(heading.format(name)) for name in names]
        assert places == sorted(places)
        assert sum(line.startswith("Machine: ") for line in lines) == 1
    assert str(tmp_path / "bench_all.txt") in capsys.readouterr().out


@pytest.mark.usefixtures("parts")
def test_one_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "bench_metrics", broken)
    assert main(["bench", "what=all", f"out={tmp_path}", "runs=[a,b]"]) == 1
    error = capsys.readouterr().err
    assert "vaex bench: metrics failed: There is no such clock." in error
    assert "benchmarks failed: metrics" in error
    assert SEEN["pointing"] == ["a", "b"]
    content = json.loads((tmp_path / "bench_all.json").read_text())
    assert set(content["parts"]) == set(SEEN)
    assert content["failed"] == {"metrics": "There is no such clock."}
    assert "Not measured: metrics. There is no such clock." in (tmp_path / "bench_all.md").read_text()
