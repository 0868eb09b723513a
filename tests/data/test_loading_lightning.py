"""The loader under Lightning: sanity checks, limits, injected samplers, several processes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from tests.data.test_loading import indices, loader
from vaex.data.loading import ResumableLoader
from vaex.types import Batch


class Seen(pl.LightningModule):
    """Trains nothing and notes the images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "predict": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen["train"].append(batch["index"].tolist())
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.seen["val"].append(batch["index"].tolist())

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["predict"].append(batch["index"].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **options,
    )


def test_the_sanity_check_takes_nothing_from_the_validation(tmp_path: Path) -> None:
    module = Seen()
    training, evaluation = loader(shuffle=True), loader()
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=2).fit(module, training, evaluation)
    again = loader(shuffle=True)
    assert module.seen["train"] == indices(again) + indices(again)
    assert module.seen["val"] == 2 * indices(loader())


def test_limits_begin_every_epoch_at_its_start(tmp_path: Path) -> None:
    module = Seen()
    trainer(tmp_path, max_epochs=3, limit_train_batches=5, limit_val_batches=2).fit(
        module, loader(shuffle=True), loader()
    )
    again = loader(shuffle=True)
    assert module.seen["train"] == [batch for _ in range(3) for batch in indices(again)[:5]]
    assert module.seen["val"] == 3 * indices(loader())[:2]


def test_overfitting_repeats_the_same_batches(tmp_path: Path) -> None:
    """Lightning makes the loader anew, with a sampler of its own."""
    module = Seen()
    run = trainer(tmp_path, max_epochs=2, overfit_batches=2)
    with pytest.warns(UserWarning, match="turning off the train dataloader shuffling"):
        run.fit(module, loader(shuffle=True), loader())
    assert module.seen["train"] == 2 * [[0, 1, 2], [3, 4, 5]]


def test_prediction_sees_every_image_in_order(tmp_path: Path) -> None:
    """Lightning makes the loader anew, with a batch sampler of its own."""
    module = Seen()
    trainer(tmp_path).predict(module, loader())
    assert module.seen["predict"] == indices(loader())


def test_loaders_made_anew_keep_the_order_of_their_epoch(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> ResumableLoader:
            return loader(shuffle=True)

    module = Seen()
    trainer(tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=Data())
    again = loader(shuffle=True)
    assert module.seen["train"] == [batch for _ in range(3) for batch in indices(again)]


PROGRAM = """
import json, sys
from pathlib import Path
import lightning.pytorch as pl
from tests.data.test_loading_lightning import Seen
from vaex.data import Sprites

if __name__ == "__main__":
    grid = {"shape": 1, "scale": 1, "orientation": 1, "x": 7, "y": 7}
    data = Sprites(size=32, grid=grid, val=9, test=9, batch_size=4)
    module = Seen()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[1],
    )
    trainer.fit(module, datamodule=data)
    trainer.predict(module, datamodule=data)
    sets = {name: getattr(data, f"{name}_set").positions.tolist() for name in ("train", "val", "test")}
    Path(sys.argv[1], f"rank{trainer.global_rank}.json").write_text(json.dumps({"seen": module.seen, "sets": sets}))
"""


@pytest.mark.slow
def test_two_processes_of_a_plain_trainer_share_the_images_out(tmp_path: Path) -> None:
    """Lightning's own distributed sampler, on by default, must neither replace the order nor share out twice."""
    (tmp_path / "program.py").write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for name, split, epochs in (("train", "train", 2), ("val", "val", 2), ("predict", "test", 1)):
        shares = [list(itertools.chain(*rank["seen"][name])) for rank in ranks]
        whole = sorted(ranks[0]["sets"][split])
        together = sorted(shares[0] + shares[1])
        if name == "train":  # 31 images: one is left out of each epoch
            assert len(shares[0]) == len(shares[1]) == 30
            for start in (0, 15):
                epoch = shares[0][start : start + 15] + shares[1][start : start + 15]
                assert len(set(epoch)) == 30
        else:
            assert together == sorted(epochs * whole)
