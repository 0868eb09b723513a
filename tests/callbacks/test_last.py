"""A run that is killed or interrupted anywhere and resumed ends bit for bit like one that was left alone."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from tests.callbacks.conftest import BATCHES, Fit, KilledError, SmallFit, Watch, differences, state
from vaex.callbacks import LastCheckpoint
from vaex.callbacks.history import RunCSVLogger
from vaex.errors import VaexError

Handlers = dict[int, Any]


WHOLE: dict[str, tuple[Fit, dict[str, Any], dict[str, Any]]] = {}  # runs that were left alone, by their options


def left_alone(small_fit: SmallFit, tmp_path: Path, **options: Any) -> tuple[Fit, dict[str, Any], dict[str, Any]]:
    """Return a whole run, its last checkpoint and its final state."""
    if repr(options) not in WHOLE:
        run = small_fit(tmp_path / "whole.ckpt", **options)
        WHOLE[repr(options)] = run, state(tmp_path / "whole.ckpt"), run.checkpoint(tmp_path / "end.ckpt")
    return WHOLE[repr(options)]


def check_resume(small_fit: SmallFit, tmp_path: Path, stopped: Watch, **options: Any) -> tuple[Fit, Fit, Fit]:
    """Train whole, stopped, and resumed; compare weights, Adam, schedule, batches and validations."""
    whole, last, end = left_alone(small_fit, tmp_path, **options)
    first = small_fit(tmp_path / "last.ckpt", watch=stopped, **options)
    assert first.ended is not None
    at = state(tmp_path / "last.ckpt")["global_step"]
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "from.ckpt")
    second = small_fit(tmp_path / "last.ckpt", resume=tmp_path / "from.ckpt", **options)
    assert second.ended is None
    assert differences(last, state(tmp_path / "last.ckpt")) == []
    assert differences(end, second.checkpoint(tmp_path / "end.ckpt")) == []
    done = len(whole.watch.batches) - len(second.watch.batches)
    assert whole.watch.batches == first.watch.batches[:done] + second.watch.batches
    assert whole.watch.validations == [s for s in first.watch.validations if s <= at] + second.watch.validations
    return whole, first, second


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5, BATCHES, BATCHES + 2, 2 * BATCHES - 1, 2 * BATCHES, 3 * BATCHES - 1])
def test_killed_after_any_step(small_fit: SmallFit, tmp_path: Path, step: int) -> None:
    _, first, second = check_resume(small_fit, tmp_path, Watch(kill_at=step))
    assert isinstance(first.ended, KilledError)
    last_of_epoch = step % BATCHES == 0
    assert len(second.watch.batches) == 3 * BATCHES - step
    assert second.watch.batches[0][:2] == (step // BATCHES, 0 if last_of_epoch else step % BATCHES)


class Dying(RunCSVLogger):
    """A history whose run dies when it is to write the values of a step: the first, or the epoch's."""

    def __init__(self, folder: str, step: int, key: str) -> None:
        super().__init__(folder)
        self.dies_at = step, key

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step == self.dies_at[0] and self.dies_at[1] in metrics:
            raise KilledError
        super().log_metrics(metrics, step)


class Epochs(pl.Callback):
    """Log a value of the epoch as a whole."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("epoch_value", float(trainer.current_epoch))


@pytest.mark.parametrize(("step", "key", "saved"), [(2, "train/loss", 2), (BATCHES - 1, "epoch_value", 5)])
def test_a_checkpoint_waits_for_the_values_of_its_step(
    small_fit: SmallFit, tmp_path: Path, step: int, key: str, saved: int
) -> None:
    """Whatever dies between a checkpoint and its row, the resumed history is that of a run that was left alone."""
    options: dict[str, Any] = {"log_every_n_steps": 1, "max_epochs": 2, "callbacks": [Epochs()]}
    small_fit(tmp_path / "whole.ckpt", logger=RunCSVLogger(str(tmp_path / "whole")), **options)
    path, folder = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "dying"
    first = small_fit(path, logger=Dying(str(folder), step, key), **options)
    assert isinstance(first.ended, KilledError)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert state(path)["global_step"] == saved
    continued = RunCSVLogger(str(folder))
    continued.keep_until(saved)
    small_fit(path, resume=path, logger=continued, **options)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    assert differences(state(tmp_path / "whole.ckpt"), state(path)) == []


def test_killed_between_two_checkpoints(small_fit: SmallFit, tmp_path: Path) -> None:
    _, first, second = check_resume(small_fit, tmp_path, Watch(kill_at=BATCHES + 3), every=4)
    assert len(first.watch.batches) == BATCHES + 3
    # saved at 4, at the end of the epoch (6), and not again before 10
    assert len(second.watch.batches) == 2 * BATCHES


@pytest.mark.slow
def test_with_workers_that_read_ahead(small_fit: SmallFit, tmp_path: Path) -> None:
    ahead, _, _ = check_resume(small_fit, tmp_path, Watch(kill_at=BATCHES + 2), workers=2)
    alone, last, _ = left_alone(small_fit, tmp_path)
    assert alone.watch.batches == ahead.watch.batches
    assert differences(last, left_alone(small_fit, tmp_path, workers=2)[1]) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_stops_and_gives_the_handlers_back(
    small_fit: SmallFit, tmp_path: Path, own_handlers: Handlers, number: signal.Signals
) -> None:
    stopped = Watch(signal_at=("batch", BATCHES + 2), numbers=(number,))
    _, first, second = check_resume(small_fit, tmp_path, stopped, every=1000)
    assert isinstance(first.ended, SystemExit)
    assert first.ended.code != 0
    assert len(first.watch.batches) == BATCHES + 3  # the step is finished
    assert len(second.watch.batches) == 3 * BATCHES - (BATCHES + 3)
    assert {n: signal.getsignal(n) for n in own_handlers} == own_handlers


@pytest.mark.parametrize(
    ("hook", "count"), [("batch", BATCHES - 1), ("validation", BATCHES), ("validation", 3 * BATCHES)]
)
def test_a_signal_at_the_end_of_an_epoch_waits_for_its_validation(
    small_fit: SmallFit, tmp_path: Path, own_handlers: Handlers, hook: str, count: int
) -> None:
    stopped = Watch(signal_at=(hook, count), numbers=(signal.SIGTERM,))
    _, first, _ = check_resume(small_fit, tmp_path, stopped, every=1000)
    assert isinstance(first.ended, SystemExit)
    assert first.watch.validations[-1] == len(first.watch.batches) == max(BATCHES, count)
    assert {n: signal.getsignal(n) for n in own_handlers} == own_handlers


def test_a_second_interrupt_stops_at_once_and_keeps_the_older_checkpoint(
    small_fit: SmallFit, tmp_path: Path, own_handlers: Handlers
) -> None:
    path = tmp_path / "last.ckpt"
    first = small_fit(path, watch=Watch(signal_at=("batch", 4), numbers=(signal.SIGINT, signal.SIGINT)), every=3)
    assert isinstance(first.ended, SystemExit)
    assert len(first.watch.batches) == 4
    assert state(path)["global_step"] == 3
    assert {n: signal.getsignal(n) for n in own_handlers} == own_handlers


def test_handlers_come_back_after_a_whole_run_and_after_a_crash(
    small_fit: SmallFit, tmp_path: Path, own_handlers: Handlers
) -> None:
    for watch in (Watch(), Watch(kill_at=2)):
        small_fit(tmp_path / "last.ckpt", watch=watch, max_epochs=1)
        assert {n: signal.getsignal(n) for n in own_handlers} == own_handlers


@pytest.mark.parametrize("step", [1, 3])
def test_accumulated_gradients_are_not_cut_apart(small_fit: SmallFit, tmp_path: Path, step: int) -> None:
    """Of 6 batches 4 make one step and 2 the next; a checkpoint holds no gradients."""
    whole, _, _ = check_resume(small_fit, tmp_path, Watch(kill_at=step), accumulate_grad_batches=4)
    assert whole.trainer.global_step == 6


@pytest.mark.parametrize(("batch", "done"), [(1, 4), (BATCHES + 1, BATCHES + 4), (BATCHES + 4, 2 * BATCHES)])
def test_a_signal_waits_for_the_gradients_to_be_accumulated(
    small_fit: SmallFit, tmp_path: Path, batch: int, done: int
) -> None:
    stopped = Watch(signal_at=("batch", batch), numbers=(signal.SIGTERM,))
    _, first, _ = check_resume(small_fit, tmp_path, stopped, every=1000, accumulate_grad_batches=4)
    assert len(first.watch.batches) == done


def test_nothing_is_saved_before_the_first_step(small_fit: SmallFit, tmp_path: Path) -> None:
    first = small_fit(tmp_path / "last.ckpt", watch=Watch(kill_at=0), accumulate_grad_batches=4)
    assert isinstance(first.ended, KilledError)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("step", [2, 3, 4, BATCHES, BATCHES + 3])
def test_validations_within_an_epoch_are_neither_lost_nor_repeated(
    small_fit: SmallFit, tmp_path: Path, step: int
) -> None:
    whole, _, _ = check_resume(small_fit, tmp_path, Watch(kill_at=step), val_check_interval=3)
    assert whole.watch.validations == [3, 6, 9, 12, 15, 18]


def test_a_signal_before_a_validation_within_an_epoch(small_fit: SmallFit, tmp_path: Path) -> None:
    stopped = Watch(signal_at=("batch", 2), numbers=(signal.SIGTERM,))
    _, first, _ = check_resume(small_fit, tmp_path, stopped, val_check_interval=3)
    assert first.watch.validations == [3]


@pytest.mark.parametrize("limit", [4, 0.5])
@pytest.mark.parametrize("step", [2, 4, 5])
def test_epochs_cut_short_by_a_limit(small_fit: SmallFit, tmp_path: Path, limit: float, step: int) -> None:
    whole, _, _ = check_resume(small_fit, tmp_path, Watch(kill_at=step), limit_train_batches=limit)
    orders = [b for _, i, b in whole.watch.batches if i == 0]
    assert len(orders) == len(set(orders)) == 3  # every epoch has its own order, from its start


def test_a_run_that_max_steps_ended_goes_on_as_if_it_had_not(small_fit: SmallFit, tmp_path: Path) -> None:
    constant = {"name": "constant"}
    whole = small_fit(tmp_path / "whole.ckpt", schedule=constant)
    first = small_fit(tmp_path / "last.ckpt", schedule=constant, every=1000, max_epochs=-1, max_steps=BATCHES + 4)
    assert first.trainer.global_step == BATCHES + 4
    (tmp_path / "last.ckpt").rename(tmp_path / "from.ckpt")
    second = small_fit(tmp_path / "last.ckpt", resume=tmp_path / "from.ckpt", schedule=constant)
    assert first.watch.batches + second.watch.batches == whole.watch.batches
    assert differences(state(tmp_path / "whole.ckpt"), state(tmp_path / "last.ckpt")) == []


def test_weights_that_are_not_finite_never_replace_good_ones(small_fit: SmallFit, tmp_path: Path) -> None:
    class Spoil(pl.Callback):
        def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step == 3:
                next(pl_module.parameters()).data.view(-1)[0] = torch.inf

    path = tmp_path / "last.ckpt"
    with pytest.raises(VaexError, match=r"The loss is .* at step 4"):
        small_fit(path, callbacks=[Spoil()])
    content = state(path)
    assert content["global_step"] == 3
    assert all(bool(torch.isfinite(weight).all()) for weight in content["state_dict"].values())


def test_a_trial_run_writes_nothing(small_fit: SmallFit, tmp_path: Path) -> None:
    run = small_fit(tmp_path / "last.ckpt", fast_dev_run=True)
    assert run.trainer.global_step == 1
    assert not (tmp_path / "last.ckpt").exists()


def test_a_period_below_one_is_told() -> None:
    with pytest.raises(VaexError, match=r"callbacks\.last_checkpoint\.every_n_steps must be at least 1, got 0"):
        LastCheckpoint("last.ckpt", every_n_steps=0)
