"""VAEModule beside callbacks: a loss that is not finite, averaged weights, early stopping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor

import vaex
from tests.modules.conftest import NETWORK, same, sprites, train
from vaex.build import build_model
from vaex.callbacks import LastCheckpoint
from vaex.errors import VaexError
from vaex.modules import VAEModule

# A loss that is not finite


class Poison(pl.Callback):
    """Spoil an image of one training batch, or the weights before one validation."""

    def __init__(self, batch_at: int = -1, validation_at: int = -1) -> None:
        self.batch_at, self.validation_at = batch_at, validation_at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.batch_at:
            batch["image"][0, 0, 0, 0] = torch.nan

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.validation_at and not trainer.sanity_checking:
            next(iter(pl_module.parameters())).data.fill_(torch.nan)


@pytest.mark.parametrize(
    ("poison", "said", "kept"),
    [
        (Poison(batch_at=8), r"The loss is nan at step 8 \(epoch 1, batch 2\)", 8),
        (Poison(batch_at=0), r"The loss is nan at step 0 \(epoch 0, batch 0\)", None),
        (Poison(validation_at=12), r"The validation loss is nan at step 12 \(epoch 1, batch 0\)", 11),
    ],
)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoints(
    tmp_path: Path, poison: Poison, said: str, kept: int | None
) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="val/loss")
    with pytest.raises(VaexError, match=said) as caught:
        train(tmp_path, VAEModule(NETWORK), poison, best, LastCheckpoint(str(tmp_path / "last.ckpt"), every_n_steps=1))
    assert "\n" not in str(caught.value)
    files = {path.name for path in tmp_path.iterdir()}
    if kept is None:
        assert files == set()
        return
    assert files == {"best.ckpt", "last.ckpt"}
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == kept
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 6
    for name in files:
        model = vaex.load(tmp_path / name)
        assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def test_validation_of_broken_weights_alone_reports_its_number(tmp_path: Path) -> None:
    module = VAEModule(NETWORK)
    next(iter(module.parameters())).data.fill_(torch.nan)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (logged,) = trainer.validate(module, datamodule=sprites(), verbose=False)
    assert math.isnan(logged["val/loss"])


# Averaged weights and early stopping


class Trace(pl.Callback):
    """Follow the exponential average by its definition."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = {name: value.clone() for name, value in pl_module.state_dict().items()}
        if not self.average:  # the first update copies
            self.average = now
        self.average = {
            name: self.decay * self.average[name] + (1 - self.decay) * value if value.is_floating_point() else value
            for name, value in now.items()
        }


def test_averaged_weights_are_validated_saved_and_loaded(tmp_path: Path) -> None:
    module = VAEModule(NETWORK, optim={"name": "adam", "lr": 1e-2}, seed=2)
    trace, path = Trace(0.8), tmp_path / "checkpoints" / "last.ckpt"
    train(tmp_path, module, trace, EMAWeightAveraging(decay=0.8), LastCheckpoint(str(path)))
    model = vaex.load(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, trace.average[f"vae.{name}"])
    assert same(model.state_dict(), module.vae.state_dict())  # training ends with the average in place
    content = torch.load(path, weights_only=True)
    current = {name.removeprefix("vae."): value for name, value in content["current_model_state"].items()}
    assert not same(current, dict(model.state_dict()))
    rebuilt = build_model(NETWORK).eval()
    rebuilt.load_state_dict(model.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(rebuilt(images).reconstruction, model(images).reconstruction)


def test_early_stopping_stops_where_the_validation_loss_no_longer_falls(tmp_path: Path) -> None:
    class Losses(pl.Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                self.values.append(float(trainer.callback_metrics["val/loss"]))

    losses = Losses()
    module = VAEModule(NETWORK, {"name": "vae"}, {"name": "adam", "lr": 3e-2}, seed=2)
    trainer = train(tmp_path, module, losses, EarlyStopping("val/loss", patience=2), max_epochs=60)
    best = losses.values.index(min(losses.values))
    assert len(losses.values) == trainer.current_epoch < 60
    assert len(losses.values) == best + 1 + 2
