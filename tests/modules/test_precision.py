"""Training in bf16 beside training in fp32, from the same weights and on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from tests.modules.conftest import NETWORK, sprites, train
from vaex.explanation import explain
from vaex.modules import VAEModule

BAND = 0.1
"""Most that a validation loss may differ, as a share of it; docs/multi-gpu.md states it. The draws of z differ too."""


class Curve(pl.Callback):
    """Keep the validation losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the epoch's."""
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def curve(folder: Path, precision: Any, seed: int, objective: dict[str, Any]) -> tuple[torch.Tensor, VAEModule]:
    """Return the validation losses of ten epochs, (10,) in nats, and the module."""
    seen, module = Curve(), VAEModule(NETWORK, objective, {"name": "adam", "lr": 1e-2}, seed=seed)
    train(folder, module, seen, precision=precision, max_epochs=10, enable_checkpointing=False)
    return torch.tensor(seen.losses), module


@pytest.mark.slow
@pytest.mark.parametrize(
    "attention", [0.0, pytest.param(50.0, marks=pytest.mark.slow)], ids=["plain", "attention loss"]
)
def test_loss_curves_of_bf16_stay_in_the_band_of_fp32(attention: float, tmp_path: Path) -> None:
    objective = {"name": "beta_vae", "beta": 4.0, "attention": {"weight": attention, "layer": "relu2"}}
    full, _ = curve(tmp_path, "32-true", 1, objective)
    half, module = curve(tmp_path, "bf16-mixed", 1, objective)
    assert full[-1] < full[0] / 2  # they have learnt something
    assert float(((half - full) / full).abs().max()) <= BAND
    other, _ = curve(tmp_path, "32-true", 2, objective)
    assert float(((other - full) / full).abs().max()) > 2 * BAND  # as far as another start is
    assert all(weight.dtype == torch.float32 for weight in module.parameters())
    data = sprites()
    data.setup("fit")
    images = data.train_set.__getitems__([0, 9])["image"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = explain(module.vae.eval(), images, "relu2", rectify="abs").maps
    assert inside.dtype == torch.float32
    assert float(inside.max()) > 0
    torch.testing.assert_close(inside, explain(module.vae, images, "relu2", rectify="abs").maps)
