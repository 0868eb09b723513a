"""Checkpoints are whole or absent, also when the disk is full."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from vaex.errors import VaexError
from vaex.modules.checkpoint_io import AtomicCheckpointIO

OLD = {"step": 1, "weights": torch.zeros(3)}
NEW = {"step": 2, "weights": torch.ones(300_000)}


def in_a_process(function: Callable[[], None]) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(60)
    return process.exitcode


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    AtomicCheckpointIO().save_checkpoint(NEW, str(path))
    content = AtomicCheckpointIO().load_checkpoint(path, weights_only=True)
    assert content["step"] == 2
    assert torch.equal(content["weights"], NEW["weights"])  # type: ignore[arg-type]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failing_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def fail(*arguments: Any) -> None:
        if step == "write":
            arguments[1].write(b"half of it")
        raise OSError(28, "No space left on device")

    target, name = (torch, "save") if step == "write" else (Path, "replace")
    monkeypatch.setattr(target, name, fail)
    with pytest.raises(
        VaexError, match=r"Cannot write checkpoint .*a\.ckpt \(No space left on device\); the last good"
    ) as caught:
        AtomicCheckpointIO().save_checkpoint(NEW, path)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: torch meets it deep inside its own writer."""
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            AtomicCheckpointIO().save_checkpoint(NEW, path)
        except VaexError as error:
            (tmp_path / "said").write_text(str(error))

    assert in_a_process(write) == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"Cannot write checkpoint {path} (File too large); the last good one is kept.")
    assert "\n" not in said
    assert torch.load(path, weights_only=True)["step"] == 1
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "said"]


def test_a_kill_in_the_middle_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def die(content: Any, file: Any) -> None:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def write() -> None:
        torch.save = die  # type: ignore[assignment]
        AtomicCheckpointIO().save_checkpoint(NEW, path)

    assert in_a_process(write) == -signal.SIGKILL
    assert torch.load(path, weights_only=True)["step"] == 1
    assert not [p for p in tmp_path.glob("*.ckpt") if p != path]  # what is left is hidden and no checkpoint by its name


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VaexError, match=r"Cannot write checkpoint .*file/a\.ckpt"):
        AtomicCheckpointIO().save_checkpoint(OLD, tmp_path / "file" / "a.ckpt")


def test_what_cannot_be_saved_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(OLD, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match=r"pickle|local object"):
        AtomicCheckpointIO().save_checkpoint({"f": lambda: None}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "a.ckpt"]


def test_lightning_saves_and_loads_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

    saved: list[str] = []
    original = AtomicCheckpointIO.save_checkpoint

    def spy(self: AtomicCheckpointIO, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        saved.append(Path(path).name)
        original(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", spy)
    trainer = pl.Trainer(accelerator="cpu", logger=False, plugins=[AtomicCheckpointIO()], enable_progress_bar=False)
    module = Module()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert saved == ["a.ckpt"]
    again = Module.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(again.layer.weight, module.layer.weight)
