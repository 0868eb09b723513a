"""The run folder: finding checkpoints, atomic writes, and reading a config without torch."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vaex import runs
from vaex.commands.record import write_metrics
from vaex.errors import VaexError
from vaex.reporting.results import read_result
from vaex.runs import (
    best_checkpoint,
    csv_writer,
    find_checkpoint,
    json_items,
    json_writer,
    npz_writer,
    read_config,
    write_atomic,
    write_json,
)

CONFIG = {"network": {"name": "conv", "shape": [1, 32, 32]}, "seed": 3, "run": {"data": {"size": 64.5, "x": None}}}


class Code:
    """Runs a shell command wherever it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def write(path: Path, **changes: Any) -> Path:
    """Write what Lightning writes: weights, optimiser, callbacks and a config."""
    layer = torch.nn.Linear(4, 3)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    content: dict[str, Any] = {
        "state_dict": OrderedDict(layer.state_dict()),
        "optimizer_states": [optimiser.state_dict()],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "hyper_parameters": CONFIG,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


# Finding


def test_the_newest_best_wins_then_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert best_checkpoint(tmp_path) is None
    folder.mkdir()
    for age, name in enumerate(("best-v1.ckpt", "best.ckpt", "last.ckpt", "epoch=3.ckpt", ".best.ckpt.7.tmp")):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (1000 - age, 1000 - age))
    assert best_checkpoint(tmp_path) == folder / "best-v1.ckpt"
    os.utime(folder / "best.ckpt", (2000, 2000))
    assert best_checkpoint(tmp_path) == folder / "best.ckpt"
    for best in folder.glob("best*"):
        best.unlink()
    assert find_checkpoint(str(tmp_path)) == folder / "last.ckpt"
    (folder / "last.ckpt").unlink()
    with pytest.raises(VaexError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


def test_shipped_names_are_found_behind_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped, elsewhere = tmp_path / "shipped", tmp_path / "elsewhere"
    shipped.mkdir()
    elsewhere.mkdir()
    (shipped / "sprites.ckpt").write_bytes(b"x")
    (shipped / "notes.txt").write_bytes(b"x")
    monkeypatch.setattr(runs, "SHIPPED", shipped)
    monkeypatch.chdir(elsewhere)
    assert runs.shipped_names() == ["sprites"]
    assert find_checkpoint("sprites") == shipped / "sprites.ckpt"
    with pytest.raises(VaexError, match=r"No checkpoint at sprite: .* or a shipped name \(sprites\)"):
        find_checkpoint("sprite")
    (elsewhere / "sprites").write_bytes(b"x")
    assert find_checkpoint("sprites") == Path("sprites")


def test_an_installation_without_checkpoints_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "none")
    with pytest.raises(VaexError, match=r"a shipped name \(none in this installation\)"):
        find_checkpoint(tmp_path / "x")


# Writing


def test_write_makes_folders_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, "äé\n")
    assert path.read_bytes() == "äé\n".encode()
    write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_sorted_and_takes_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"path": tmp_path}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": {"path": str(tmp_path)}, "b": 1}
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


def refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    content = {"a": float("nan"), "b": [1.5, float("inf"), {"c": (-float("inf"), "NaN")}], "d": None, "e": True}
    expected = {"a": None, "b": [1.5, None, {"c": [None, "NaN"]}], "d": None, "e": True}
    write_json(tmp_path / "a.json", content)
    with json_writer(tmp_path / "b.json", {"head": float("nan")}, "items") as append:
        append(content)
    write_metrics(tmp_path, test={"mig": float("nan"), "loss": 1.0})
    read = [json.loads((tmp_path / name).read_text(), parse_constant=refused) for name in ("a.json", "b.json")]
    assert read == [expected, {"head": None, "items": [expected]}]
    kept = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refused)
    assert kept == {"test": {"loss": 1.0, "mig": None}}
    assert math.isnan(read_result(tmp_path, {}).measures["test"]["mig"])


def test_nothing_else_writes_json_into_a_file() -> None:
    """What is not written by `strict_json` is hashed, or text for a program's own use."""
    package = Path(runs.__file__).parent
    others = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "json.dump" in path.read_text()}
    hashed = {"data/grid.py", "data/defects.py", "commands/finished.py", "reporting/groups.py"}
    assert others - hashed == {"runs.py", "callbacks/kept.py", "commands/jobs.py", "exporting/programs.py"}


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failing_write_keeps_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    original = Path.write_bytes

    def fail(self: Path, content: Any) -> int:
        if step == "write_bytes":
            original(self, content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(VaexError, match=r"Cannot write .*a\.txt \(No space left on device\); free space or choose"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VaexError, match=r"Cannot write .*file/a\.txt"):
        write_atomic(tmp_path / "file" / "a.txt", "new")


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


# Reading a config


def test_read_config_is_what_torch_reads(tmp_path: Path) -> None:
    file = write(tmp_path / "checkpoints" / "best.ckpt")
    assert torch.load(file, weights_only=True)["hyper_parameters"] == CONFIG
    assert read_config(file) == CONFIG
    assert read_config(tmp_path) == CONFIG


def test_read_config_imports_no_torch(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ckpt")
    program = """
import sys
from vaex.runs import read_config
print(read_config(sys.argv[1]))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=True)
    said, _, modules = done.stdout.partition("\n")
    assert said == repr(CONFIG)
    assert not {name.split(".")[0] for name in modules.split()} & {"torch", "numpy", "lightning", "omegaconf", "hydra"}


def test_read_config_never_runs_code(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    beside = write(tmp_path / "beside.ckpt", callbacks=Code(witness), state_dict={"a": Code(witness)})
    assert read_config(beside) == CONFIG
    inside = write(tmp_path / "inside.ckpt", hyper_parameters={**CONFIG, "run": Code(witness)})
    with pytest.raises(VaexError, match=r"inside\.ckpt\.run is of type Object, expected text"):
        read_config(inside)
    instead = write(tmp_path / "instead.ckpt", hyper_parameters=Code(witness))
    with pytest.raises(VaexError, match="not a vaex checkpoint"):
        read_config(instead)
    with zipfile.ZipFile(tmp_path / "whole.ckpt", "w") as archive:
        archive.writestr("whole/data.pkl", pickle.dumps(Code(witness)))
    with pytest.raises(VaexError, match="cannot be read"):
        read_config(tmp_path / "whole.ckpt")
    # protocol 4 names its functions on the stack, protocol 0 calls them by INST and GLOBAL
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with zipfile.ZipFile(tmp_path / "old.ckpt", "w") as archive:
            content = {"hyper_parameters": CONFIG, "x": Code(witness)}
            archive.writestr("old/data.pkl", pickle.dumps(content, protocol=protocol))
        assert read_config(tmp_path / "old.ckpt") == CONFIG
    assert not witness.exists()
    pickle.loads(pickle.dumps(Code(witness)))
    assert witness.exists()  # it would have run


def bare(folder: Path) -> None:
    (folder / "a.ckpt").write_bytes(pickle.dumps({"hyper_parameters": CONFIG}))


def cut(folder: Path) -> None:
    content = write(folder / "a.ckpt").read_bytes()
    (folder / "a.ckpt").write_bytes(content[:-20])


def noise(folder: Path) -> None:
    (folder / "a.ckpt").write_bytes(bytes(range(256)) * 10)


def torn(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"hyper_parameters": CONFIG})[:-9])


def without(folder: Path) -> None:
    write(folder / "a.ckpt", hyper_parameters={"lr": 1.0})


def listed(folder: Path) -> None:
    torch.save([1, 2], folder / "a.ckpt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bare, "cannot be read"),
        (cut, "cannot be read"),
        (noise, "cannot be read"),
        (torn, "cannot be read"),
        (listed, "cannot be read"),
        (without, "its hyper_parameters hold no network"),
        (lambda folder: None, "No checkpoint at"),
    ],
)
def test_read_config_refuses_what_is_no_checkpoint(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(VaexError, match=message) as caught:
        read_config(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)


def test_rows_are_appended_and_read_back(tmp_path: Path) -> None:
    rows = [{"name": 'a "quoted", name', "value": 1.5}, {"name": "two\nlines", "value": -2}]
    with csv_writer(tmp_path / "deep" / "a.csv") as append:
        for row in rows:
            append(row)
        assert not (tmp_path / "deep" / "a.csv").exists()
    with (tmp_path / "deep" / "a.csv").open(newline="") as file:
        assert [{**row, "value": float(row["value"])} for row in csv.DictReader(file)] == rows
    with csv_writer(tmp_path / "none.csv", ["a", "b"]):
        pass
    assert (tmp_path / "none.csv").read_text().splitlines() == ["a,b"]


@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": [1, None]}, "é\n", 3]])
def test_items_of_a_list_in_json(tmp_path: Path, items: list[Any]) -> None:
    head = {"threshold": None, "text": 'with "quotes"'}
    with json_writer(tmp_path / "a.json", head, "images") as append:
        for item in items:
            append(item)
    assert json.loads((tmp_path / "a.json").read_text()) == {**head, "images": items}
    assert list(json_items(tmp_path / "a.json", "images")) == items
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", '{"images": []}', '{\n"images": [\n{"a": 1},\n{"a": 2}', '{\n"images": [\n{"a"'])
def test_items_of_a_list_that_is_cut_short(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - also one of json
        list(json_items(tmp_path / "a.json", "images"))


def test_rows_of_a_csv_are_copied_as_they_stand(tmp_path: Path) -> None:
    rows = [{"image": "=x.png", "score": -1.5}, {"image": "'=x.png", "score": 2}, {"image": "a\nb,c.png", "score": 0.1}]
    with csv_writer(tmp_path / "a.csv") as append:
        for row in rows:
            append(row)
    with (tmp_path / "a.csv").open(newline="") as file, csv_writer(tmp_path / "b.csv") as append:
        for read in csv.DictReader(file):
            append(read, as_read=True)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize("writer", [csv_writer, npz_writer, lambda path: json_writer(path, {}, "images")])
def test_a_stream_that_is_interrupted_leaves_what_was_there(tmp_path: Path, writer: Callable[[Path], Any]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), writer(path):
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
