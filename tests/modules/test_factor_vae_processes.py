"""Two processes train FactorVAE as one does on the joint batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.modules.conftest import NETWORK
from tests.pairs import results, run_pair
from vaex.modules import FactorVAEModule


class Shared(FactorVAEModule):
    """Each process takes in turn from both halves of a joint batch, so that the halves of all are those of one."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train by this process's part."""
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        halves = batch["image"].chunk(2)
        return super().training_step({"image": torch.cat([half[rank::ranks] for half in halves])}, batch_idx)


class Joint(Dataset[dict[str, Tensor]]):
    """Whole joint batches."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index]}


def trained(folder: Path, processes: int, every: int, attention: dict[str, Any]) -> dict[str, Tensor]:
    objective = {
        "name": "factor_vae",
        "gamma": 5.0,
        "discriminator": {"width": 16, "depth": 3, "init": "torch", "optim": {"name": "sgd", "lr": 0.1}},
        "attention": attention,
    }
    module = Shared(NETWORK, objective, {"name": "sgd", "lr": 1e-3, "momentum": 0.0}, seed=4)
    with torch.no_grad():  # next to no noise, which every process draws for itself
        module.vae.encoder.logvar.weight.zero_()
        module.vae.encoder.logvar.bias.fill_(-29.0)
    images = torch.rand(4, 16, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=1,
        accumulate_grad_batches=every,
        gradient_clip_val=5.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, train_dataloaders=DataLoader(Joint(images), batch_size=None))
    return module.state_dict()


def _two(rank: int, folder: str, every: int, attention: dict[str, Any]) -> None:
    torch.save(trained(Path(folder), 2, every, attention), f"{folder}/{rank}.pt")


@pytest.mark.parametrize(("every", "attention"), [(1, {}), (2, {"weight": 50.0})], ids=["plain", "accumulated"])
def test_two_processes_make_the_steps_of_one(every: int, attention: dict[str, Any], tmp_path: Path) -> None:
    run_pair(_two, str(tmp_path), every, attention)
    one = trained(tmp_path, 1, every, attention)
    for two in results(tmp_path):
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
