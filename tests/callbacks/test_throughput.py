"""The throughput callback against a clock that the data, the steps, the validation and the checkpoints move by hand."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import SimpleProfiler
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vaex.callbacks import Throughput, throughput

FETCH, STEP, VALIDATION, SAVE = 3.0, 2.0, 40.0, 500.0  # seconds: per image, batch, validation batch, checkpoint
BATCH, BATCHES = 4, 6


class Clock:
    """Seconds that only go by when told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self, device: Any = None) -> float:
        return self.seconds


class Images(Dataset[Any]):
    def __init__(self, clock: Clock, count: int, seconds: float) -> None:
        self.clock, self.count, self.seconds = clock, count, seconds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Any]:
        self.clock.seconds += self.seconds
        return {"image": torch.zeros(1, 2, 2)}


class Module(pl.LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.weight = clock, nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.seconds += 1000 if self.global_step == 0 else STEP  # the first one compiles
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.seconds += VALIDATION

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        self.clock.seconds += SAVE

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saving(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


class Kept(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        found = {k.partition("/")[2]: v for k, v in metrics.items() if k.startswith("throughput/")}
        if found:
            self.rows.append((step, found))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "now", clock)
    return clock


def fit(folder: Path, clock: Clock, *callbacks: pl.Callback, **options: Any) -> tuple[pl.Trainer, Kept]:
    logger = Kept()
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 2, "num_sanity_val_steps": 0, **quiet, **options}
    trainer = pl.Trainer(
        accelerator="cpu", logger=logger, callbacks=[Throughput(), *callbacks], default_root_dir=folder, **given
    )
    train, val = (DataLoader(Images(clock, BATCH * n, s), BATCH) for n, s in ((BATCHES, FETCH), (2, 7.0)))
    trainer.fit(Module(clock), train, val)
    return trainer, logger


def test_numbers_are_those_of_the_clock(tmp_path: Path, clock: Clock) -> None:
    _, logger = fit(tmp_path, clock)
    rows = [(step, row) for step, row in logger.rows if "images_per_second" in row]
    assert [step for step, _ in rows] == [1, 3, 5]
    fetch = BATCH * FETCH
    for _, row in rows:  # the first row is of the second step alone, the others of two
        assert row["step_seconds"] == pytest.approx(fetch + STEP)
        assert row["images_per_second"] == pytest.approx(BATCH / (fetch + STEP))
        assert row["data_wait_share"] == pytest.approx(fetch / (fetch + STEP))


def test_validation_and_checkpoints_are_no_step_time(tmp_path: Path, clock: Clock) -> None:
    _, logger = fit(tmp_path, clock, Saving(tmp_path / "x.ckpt"), val_check_interval=3, max_epochs=2)
    rows = [row for _, row in logger.rows if "images_per_second" in row]
    assert len(rows) == 6
    for row in rows:
        assert row["step_seconds"] == pytest.approx(BATCH * FETCH + STEP)
    shares = [row["validation_share"] for _, row in logger.rows if "validation_share" in row]
    validation = 2 * (VALIDATION + BATCH * 7.0)
    between = 3 * (BATCH * FETCH + STEP + SAVE)
    first = between - STEP + 1000
    assert shares == pytest.approx([validation / (validation + t) for t in (first, between, between, between)])


def test_peak_memory_is_that_of_the_process(tmp_path: Path, clock: Clock) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, logger = fit(tmp_path, clock)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (found, *_) = [row["peak_memory_gib"] for _, row in logger.rows if "peak_memory_gib" in row]
    assert before / 2**20 <= found * 1.0001
    assert found <= after / 2**20 * 1.0001


def test_the_users_profiler_goes_on_and_is_given_back(tmp_path: Path, clock: Clock) -> None:
    profiler = SimpleProfiler(dirpath=tmp_path, filename="profile")
    trainer, _ = fit(tmp_path, clock, profiler=profiler)
    assert vars(trainer)["profiler"] is profiler
    assert len(profiler.recorded_durations[throughput.FETCH]) == BATCHES
    assert not {"start", "stop"} & set(vars(profiler))


def test_a_failure_leaves_the_profiler_too(tmp_path: Path, clock: Clock) -> None:
    class Failing(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("stop here")

    profiler = SimpleProfiler()
    with pytest.raises(RuntimeError, match="stop here"):
        fit(tmp_path, clock, Failing(), profiler=profiler)
    assert not {"start", "stop"} & set(vars(profiler))
