"""The number of training images reaches the objective and the checkpoint; what nobody can tell is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from tests.modules.conftest import NETWORK, sprites, train
from vaex.errors import VaexError
from vaex.modules import VAEModule
from vaex.objectives import BetaTCVAE
from vaex.objectives.attention import AttentionDisentanglement

IMAGES = 2 * 2 * 4 * 4 - 8 - 8  # the grid of `sprites`, less what is held out


def module(**options: Any) -> VAEModule:
    return VAEModule(NETWORK, {"name": "beta_tcvae", **options})


def quiet(folder: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_the_data_tells_and_the_checkpoint_keeps_it(tmp_path: Path) -> None:
    model = module(attention={"weight": 1.0, "layer": "relu2"})
    train(tmp_path, model, ModelCheckpoint(tmp_path, "last"), max_epochs=1)
    assert isinstance(model.objective, AttentionDisentanglement)
    assert isinstance(model.objective.inner, BetaTCVAE)
    assert model.objective.inner.dataset_size == IMAGES
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert stored["objective"]["dataset_size"] == IMAGES
    again = VAEModule(**stored)
    run = quiet(tmp_path)
    run.test(again, datamodule=sprites(), verbose=False)
    assert float(run.callback_metrics["test/total_correlation"]) > 0


def test_a_plain_loader_tells_too(tmp_path: Path) -> None:
    data = sprites()
    data.setup("fit")
    model = module()
    quiet(tmp_path).fit(model, data.train_dataloader(), data.val_dataloader())
    assert model.objective.dataset_size == IMAGES  # type: ignore[attr-defined]


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(16):
            yield {"image": torch.rand(1, 32, 32)}


def test_a_stream_needs_the_number_told(tmp_path: Path) -> None:
    loader: DataLoader[Any] = DataLoader(Stream(), batch_size=8)
    with pytest.raises(VaexError, match=r"objective=beta_tcvae needs .* set objective\.dataset_size"):
        quiet(tmp_path).fit(module(), loader)
    model = module(dataset_size=1000)
    quiet(tmp_path).fit(model, loader)
    assert model.objective.dataset_size == 1000  # type: ignore[attr-defined]


def test_another_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=f"dataset_size is 500, but there are {IMAGES} training images"):
        train(tmp_path, module(dataset_size=500))


@pytest.mark.parametrize("name", ["annealed_vae", "dip_vae_i", "dip_vae_ii", "info_vae", "iwae"])
def test_every_objective_trains_and_logs_its_terms(tmp_path: Path, name: str) -> None:
    model = VAEModule(NETWORK, {"name": name})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = train(tmp_path, model, max_epochs=1)
    terms = {"annealed_vae": "capacity", "info_vae": "mmd", "iwae": "iwae"}
    assert f"val/{terms.get(name, 'dip_diagonal')}" in run.callback_metrics
    assert all(not torch.equal(before[key], value) for key, value in model.state_dict().items() if "weight" in key)
