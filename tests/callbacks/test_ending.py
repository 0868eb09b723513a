"""Pictures and measures of the end of a training, whatever ends it, and the steps by which they are called."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, Timer

from tests.callbacks.conftest import SmallFit, differences, state
from tests.callbacks.test_disentanglement import NETWORK, Kept, fit
from vaex.callbacks import Attention, Disentanglement, Traversal
from vaex.callbacks.pictures import Drawing
from vaex.coding import encoded
from vaex.metrics.disentanglement.collection import all_scores
from vaex.modules import VAEModule

WITHIN = {"val_check_interval": 3}  # of 6 batches
ENDS: dict[str, tuple[dict[str, Any], str, int]] = {  # options, the name of the last picture, optimiser steps
    "last epoch": ({}, "epoch0001", 12),
    "last epoch, validated before its end": ({"val_check_interval": 4}, "step0000012", 12),
    "last epoch, not validated": ({"max_epochs": 3, "check_val_every_n_epoch": 2}, "epoch0002", 18),
    "max_steps at the end of an epoch": ({"max_epochs": -1, "max_steps": 6}, "epoch0000", 6),
    "max_steps behind a validation": ({"max_epochs": -1, "max_steps": 8}, "epoch0001", 8),
    "early stopping": ({"stops": True}, "epoch0000", 6),
    "early stopping, min_epochs": ({"stops": True, "max_epochs": 5, "min_epochs": 2}, "epoch0001", 12),
    "early stopping within an epoch": ({"stops": True, **WITHIN}, "step0000003", 3),
    "early stopping within an epoch, min_steps": ({"stops": True, "min_steps": 7, **WITHIN}, "step0000007", 7),
    "early stopping within an epoch, min_epochs": ({"stops": True, "min_epochs": 1, **WITHIN}, "step0000006", 6),
    "max_time": ({"max_time": timedelta(seconds=4)}, "epoch0000", 4),
    "max_time, min_epochs": ({"max_time": timedelta(seconds=4), "min_epochs": 1}, "epoch0000", 6),
}
BOTH_ORDERS = {"early stopping", "early stopping within an epoch"}


def lively() -> VAEModule:
    """A module whose latents no metric takes for collapsed, and that moves with each step."""
    module = VAEModule(NETWORK, {"name": "beta_vae", "beta": 0.0}, {"name": "adam", "lr": 1e-3})
    with torch.no_grad():
        module.vae.encoder.mean.weight *= 300
    return module


def watchers() -> list[pl.Callback]:
    """All that draw or measure at the end, and here at no other time."""
    measure = Disentanglement(names=["mig"], every_n_steps=100, codes=None)
    return [Attention("vae", figure_images=1, every_n_epochs=9), Traversal("vae", steps=2, every_n_epochs=9), measure]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> pl.Callback:
    """Every training batch takes one second of ``max_time``."""

    class Clock(pl.Callback):
        seconds = 0

        def on_train_batch_start(self, *_: Any) -> None:
            self.seconds += 1

    clock = Clock()
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: clock.seconds)
    return clock


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "first"),
    [
        (end, first)
        for end, (options, _, _) in ENDS.items()
        for first in ([True, False] if "stops" in options else [False])
    ],
)
def test_every_end_is_drawn_and_measured_once(end: str, first: bool, clock: pl.Callback, tmp_path: Path) -> None:
    options, name, steps = ENDS[end]
    options = {"max_epochs": 2, **options}
    stops: list[pl.Callback] = (
        [EarlyStopping("val/loss", stopping_threshold=1e9)] if options.pop("stops", False) else []
    )
    seen = watchers()
    trainer, module, logger = fit(
        tmp_path, clock, *(stops + seen if first else seen + stops), module=lively(), **options
    )
    assert trainer.global_step == steps
    files = sorted(path.name for path in (tmp_path / "figures").iterdir() if path.suffix == ".png")
    expected = [f"attention_val_{name}.png", f"mutual_information_step{steps:07d}.png", f"traversal_val_{name}.png"]
    assert files == expected
    # The row of the last step: they count from 0
    assert {(key.split("/")[0], step) for key, _, step in logger.pictures} == {
        ("attention", steps - 1),
        ("traversal", steps - 1),
        ("disentanglement", steps - 1),
    }
    table = encoded(module.vae, trainer.datamodule)  # type: ignore[attr-defined]
    scores = all_scores(table.codes, table.factors, ["mig"], 0)
    assert scores["mig"] > 0
    scores = {f"disentanglement/val/{key}": value for key, value in scores.items()}
    ((row, logged),) = logger.values
    assert row == steps - 1
    assert logged == pytest.approx(scores)
    assert {key: float(trainer.callback_metrics[key]) for key in scores} == pytest.approx(scores)


def test_a_measure_of_the_end_takes_the_place_of_one_before(tmp_path: Path) -> None:
    stop = EarlyStopping("val/loss", stopping_threshold=1e9)
    measure = Disentanglement(names=["mig"], every_n_steps=5, codes=None)
    trainer, _, logger = fit(tmp_path, measure, stop, module=lively())
    assert [step for step, _ in logger.values] == [4, 5]
    assert logger.values[0][1] != logger.values[1][1]
    found = float(trainer.callback_metrics["disentanglement/val/mig"])
    assert found == pytest.approx(logger.values[1][1]["disentanglement/val/mig"])


@pytest.mark.parametrize("first", [True, False])
def test_the_end_is_drawn_with_averaged_weights_as_validations_are(first: bool, tmp_path: Path) -> None:
    class Seen(Drawing):
        every_n_epochs = 9
        weights: tuple[torch.Tensor, ...] = ()

        def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            self.weights = tuple(weight.detach().clone() for weight in pl_module.parameters())

    class Last(pl.Callback):
        weights: tuple[torch.Tensor, ...] = ()

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            self.weights = tuple(weight.detach().clone() for weight in pl_module.parameters())

    seen, last, average = Seen(), Last(), EMAWeightAveraging(decay=0.8)
    _, module, _ = fit(tmp_path, *([average, seen] if first else [seen, average]), last, max_steps=8)
    assert all(torch.equal(*pair) for pair in zip(seen.weights, module.parameters(), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(seen.weights, last.weights, strict=True))


def test_training_is_that_without_them(tmp_path: Path) -> None:
    _, plain, _ = fit(tmp_path / "a", max_steps=8)
    _, watched, _ = fit(tmp_path / "b", *watchers(), max_steps=8)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert watched.training


def test_steps_are_those_of_the_optimiser(tmp_path: Path) -> None:
    """Two batches a step: 12 batches are 6 steps, and every validation, two batches apart, follows one of them."""
    seen: list[pl.Callback] = [
        Attention("vae", figure_images=1, every_n_epochs=1),
        Disentanglement(names=["mig"], every_n_steps=2, codes=None),
    ]
    rows: list[tuple[str, int]] = []

    class Rows(Kept):
        def log_metrics(self, metrics: Any, step: Any = None, **more: Any) -> None:
            super().log_metrics(metrics, step, **more)
            rows.extend((key, step) for key in metrics if key in {"val/loss", "train/loss"})

    trainer, _, logger = fit(tmp_path, *seen, logger=Rows(), accumulate_grad_batches=2, val_check_interval=2)
    assert trainer.global_step == 6
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [f"attention_val_step{n:07d}.png" for n in (1, 2, 3, 4, 5, 6)] + [
        f"mutual_information_step{n:07d}.png" for n in (2, 4, 6)
    ]
    assert [step for key, _, step in logger.pictures if key == "attention/val/maps"] == [0, 1, 2, 3, 4, 5]
    assert [step for key, step in rows if key == "val/loss"] == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in logger.values] == [1, 3, 5]


def test_a_resumed_run_measures_no_step_twice(small_fit: SmallFit, tmp_path: Path) -> None:
    def measure() -> Disentanglement:
        return Disentanglement(names=["mig"], every_n_steps=2, codes=None, folder=str(tmp_path / str(len(found))))

    found: list[Any] = []
    options: dict[str, Any] = {"accumulate_grad_batches": 2}
    for steps, resume in ((2, None), (5, tmp_path / "from.ckpt")):
        callback = measure()
        small_fit(
            tmp_path / "last.ckpt", resume=resume, callbacks=[callback], max_epochs=-1, max_steps=steps, **options
        )
        (tmp_path / "last.ckpt").rename(tmp_path / "from.ckpt")
        found.append(sorted(path.name for path in (Path(str(callback.folder)) / "figures").iterdir()))
    assert found == [
        ["mutual_information_step0000002.png"],
        ["mutual_information_step0000004.png", "mutual_information_step0000005.png"],
    ]


def test_a_run_that_was_stopped_within_an_epoch_goes_on_as_if_it_had_not(
    small_fit: SmallFit, clock: pl.Callback, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"schedule": {"name": "constant"}}
    whole = small_fit(tmp_path / "whole.ckpt", **options)
    first = small_fit(tmp_path / "last.ckpt", callbacks=[clock], max_time=timedelta(seconds=8), every=1000, **options)
    assert first.trainer.global_step == 8  # of 6 an epoch
    (tmp_path / "last.ckpt").rename(tmp_path / "from.ckpt")
    second = small_fit(tmp_path / "last.ckpt", resume=tmp_path / "from.ckpt", **options)
    assert first.watch.batches + second.watch.batches == whole.watch.batches
    assert differences(state(tmp_path / "whole.ckpt"), state(tmp_path / "last.ckpt")) == []
