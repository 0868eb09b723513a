"""Resuming beside other callbacks, with loaders and modules that are not vaex's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging

from tests.callbacks.conftest import BATCHES, GRID, SmallFit, Watch, differences, state
from vaex.data import Sprites
from vaex.data.loading import ResumableLoader
from vaex.modules import VAEModule


def test_averaged_weights_and_early_stopping_resume_too(small_fit: SmallFit, tmp_path: Path) -> None:
    whole = small_fit(tmp_path / "whole.ckpt", callbacks=[EMAWeightAveraging(decay=0.8), EarlyStopping("val/loss")])
    small_fit(
        tmp_path / "last.ckpt",
        watch=Watch(kill_at=BATCHES + 2),
        callbacks=[EMAWeightAveraging(decay=0.8), EarlyStopping("val/loss")],
    )
    (tmp_path / "last.ckpt").rename(tmp_path / "from.ckpt")
    stopping = EarlyStopping("val/loss")
    small_fit(
        tmp_path / "last.ckpt",
        resume=tmp_path / "from.ckpt",
        callbacks=[EMAWeightAveraging(decay=0.8), stopping],
    )
    assert {"current_model_state", "averaging_state"} <= state(tmp_path / "whole.ckpt").keys()
    assert differences(state(tmp_path / "whole.ckpt"), state(tmp_path / "last.ckpt")) == []
    (reference,) = (c for c in whole.trainer.callbacks if isinstance(c, EarlyStopping))  # type: ignore[attr-defined]
    assert stopping.state_dict() == reference.state_dict()


def test_loaders_without_a_data_module(small_fit: SmallFit, tmp_path: Path) -> None:
    data = Sprites(size=32, grid=GRID, val=8, test=8)
    data.setup()

    def loaders() -> dict[str, Any]:
        return {
            "train_dataloaders": ResumableLoader(data.train_set, batch_size=8, shuffle=True),
            "val_dataloaders": ResumableLoader(data.val_set, batch_size=8),
        }

    whole = small_fit(tmp_path / "whole.ckpt", loaders=loaders())
    first = small_fit(tmp_path / "last.ckpt", loaders=loaders(), watch=Watch(kill_at=BATCHES + 2))
    (tmp_path / "last.ckpt").rename(tmp_path / "from.ckpt")
    second = small_fit(tmp_path / "last.ckpt", loaders=loaders(), resume=tmp_path / "from.ckpt")
    assert first.watch.batches + second.watch.batches == whole.watch.batches
    assert differences(state(tmp_path / "whole.ckpt"), state(tmp_path / "last.ckpt")) == []
    assert whole.watch.batches == small_fit().watch.batches  # the data module gives the same order


class Counting(pl.LightningModule):
    """A module that vaex does not own; it asks for the number of steps before Lightning restores the loops."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1024, 1)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch["image"].flatten(1)).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps + 1)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_a_module_that_asks_for_the_number_of_steps(small_fit: SmallFit, tmp_path: Path) -> None:
    def module() -> Counting:
        torch.manual_seed(0)
        return Counting()

    whole = small_fit(tmp_path / "whole.ckpt", module=module())
    first = small_fit(tmp_path / "last.ckpt", module=module(), watch=Watch(kill_at=BATCHES + 2))
    (tmp_path / "last.ckpt").rename(tmp_path / "from.ckpt")
    second = small_fit(tmp_path / "last.ckpt", module=module(), resume=tmp_path / "from.ckpt")
    assert first.watch.batches + second.watch.batches == whole.watch.batches
    assert differences(state(tmp_path / "whole.ckpt"), state(tmp_path / "last.ckpt")) == []


def test_the_resumed_module_has_the_checkpoint_of_the_run(small_fit: SmallFit, tmp_path: Path) -> None:
    """The checkpoint rebuilds its module, so that nothing but the path is needed to go on."""
    small_fit(tmp_path / "last.ckpt", watch=Watch(kill_at=4))
    module = VAEModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    saved = state(tmp_path / "last.ckpt")["state_dict"]
    assert differences(dict(saved), dict(module.state_dict())) == []
