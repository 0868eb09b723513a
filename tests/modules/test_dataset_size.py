"""The number of training images reaches the objective and the checkpoint; what nobody can tell is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset

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


class Items(Dataset[dict[str, torch.Tensor]]):
    """Images of noise, with a label each where there are labels."""

    def __init__(self, count: int, labels: tuple[int, ...] = ()) -> None:
        self.images, self.labels = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0)), labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        labels = {"label": torch.tensor(self.labels[place])} if self.labels else {}
        return {"image": self.images[place], **labels}


@pytest.mark.parametrize("name", ["beta_tcvae", "dip_vae_i", "dip_vae_ii", "info_vae"])
@pytest.mark.parametrize("options", [{}, {"attention": {"weight": 1.0, "layer": "relu2"}}])
def test_an_evaluated_batch_of_one_is_left_out(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    losses = []
    for count in (4, 5):
        loader = DataLoader(Items(count), batch_size=2)
        model, run = VAEModule(NETWORK, {"name": name, **options}), quiet(tmp_path)
        if name == "beta_tcvae":
            model = module(dataset_size=100, **options)
        for measure in (run.validate, run.test):
            measure(model, loader, verbose=False)
            losses.append({key: float(value) for key, value in run.callback_metrics.items() if "loss" in key})
    assert losses[:2] == losses[2:]
    assert all(losses)


def test_labels_may_leave_a_single_normal_image(tmp_path: Path) -> None:
    batch, run = Items(6, (0, 1, 1, 0, 0, 1)), quiet(tmp_path)
    run.validate(VAEModule(NETWORK, {"name": "dip_vae_i"}), DataLoader(batch, batch_size=3), verbose=False)
    assert float(run.callback_metrics["val/dip_diagonal"]) > 0


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_evaluated_batches_may_be_larger_than_the_training_set(tmp_path: Path, estimator: str) -> None:
    loader = DataLoader(Items(16), batch_size=16)
    run = quiet(tmp_path)
    run.validate(module(dataset_size=4, estimator=estimator), loader, verbose=False)
    assert torch.isfinite(run.callback_metrics["val/total_correlation"])


def test_a_training_batch_of_one_is_told_before_the_first_step(tmp_path: Path) -> None:
    loader = DataLoader(Items(9), batch_size=4)
    run = quiet(tmp_path)
    with pytest.raises(VaexError, match=r"one of each epoch has 1: set another data\.batch_size"):
        run.fit(VAEModule(NETWORK, {"name": "info_vae"}), loader)
    assert run.global_step == 0
    alone = DataLoader(Items(3), batch_size=1)
    with pytest.raises(VaexError, match="one of each epoch has 1"):
        quiet(tmp_path).fit(VAEModule(NETWORK, {"name": "dip_vae_ii"}), alone)
    quiet(tmp_path).fit(VAEModule(NETWORK, {"name": "beta_vae"}), loader)
