"""The training bar, read from rich's own task after every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from vaex.callbacks import LastCheckpoint, ProgressBar

BATCHES = 3


class Line(pl.LightningModule):
    """Automatic optimisation of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight - batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Seen(pl.Callback):
    """Note name, steps done and length of the bar after each batch, and how many bars of training there were."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float | None]] = []
        self.bars: set[int] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        bar = trainer.progress_bar_callback
        assert isinstance(bar, ProgressBar)
        task = bar.train_progress_bar
        self.rows.append((task.description.strip(), task.completed, task.total))
        self.bars.add(task.id)
        trainer.should_stop = trainer.max_epochs == trainer.max_steps == -1  # nothing else would end it


def run(folder: Path, resume: bool = False, **options: Any) -> Seen:
    loader: DataLoader[Any] = DataLoader(torch.ones(2 * BATCHES), batch_size=2)  # type: ignore[arg-type]
    seen = Seen()
    trainer = pl.Trainer(
        **options,
        accelerator="cpu",
        callbacks=[ProgressBar(refresh_rate=10), seen, LastCheckpoint(str(folder / "last.ckpt"))],
        logger=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Line(), loader, loader, ckpt_path=folder / "last.ckpt" if resume else None)
    return seen


def test_a_run_of_steps_has_one_bar_that_counts_them_to_the_end(tmp_path: Path) -> None:
    seen = run(tmp_path, max_epochs=-1, max_steps=7)
    assert seen.rows == [("Step", step, 7) for step in range(1, 8)]  # 2 epochs of 3 batches and a batch
    assert len(seen.bars) == 1


def test_steps_of_accumulated_batches_are_counted_once(tmp_path: Path) -> None:
    seen = run(tmp_path, max_epochs=-1, max_steps=3, accumulate_grad_batches=2)
    assert [done for _, done, _ in seen.rows] == [0, 1, 2, 2, 3]  # the third batch ends an epoch and so a step
    assert {total for *_, total in seen.rows} == {3}


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run(tmp_path, max_epochs=-1, max_steps=4)  # amid the second epoch
    seen = run(tmp_path, resume=True, max_epochs=-1, max_steps=6)
    assert seen.rows == [("Step", 5, 6), ("Step", 6, 6)]


@pytest.mark.parametrize("steps", [-1, 5])
def test_a_run_of_epochs_has_a_bar_of_each(tmp_path: Path, steps: int) -> None:
    seen = run(tmp_path, max_epochs=2, max_steps=steps)
    assert seen.rows[:4] == [("Epoch 0/1", 1, 3), ("Epoch 0/1", 2, 3), ("Epoch 0/1", 3, 3), ("Epoch 1/1", 1, 3)]


def test_without_any_end_the_epoch_is_named_alone(tmp_path: Path) -> None:
    seen = run(tmp_path, max_epochs=-1, max_steps=-1, limit_train_batches=1)
    assert seen.rows[0] == ("Epoch 0", 1, 1)
