"""What the attention callback refuses, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaex.callbacks import Attention
from vaex.data import Sprites
from vaex.errors import VaexError
from vaex.modules import VAEModule

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
GRID = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}


def sprites() -> Sprites:
    return Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8)


def module() -> VAEModule:
    return VAEModule(NETWORK, objective={"name": "beta_vae", "beta": 0.0}, optim={"name": "adam", "lr": 0.01})


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given: dict[str, Any] = quiet | {"accelerator": "cpu", "devices": 1, "max_epochs": 2} | options
    return pl.Trainer(**given, callbacks=list(callbacks), default_root_dir=folder)


class Dictionaries(Dataset[Any]):
    """Rows of a mapping of tensors."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def test_images_with_nan_end_the_run_with_their_number(tmp_path: Path) -> None:
    images = torch.rand(6, 1, 32, 32)
    images[4] = torch.nan
    loader: DataLoader[Any] = DataLoader(Dictionaries(image=images), batch_size=6)
    with pytest.raises(VaexError, match="3 of 18 attention maps hold NaN"):
        trainer(tmp_path, Attention("vae")).validate(module(), loader, verbose=False)


def test_labels_that_mean_something_else_are_named_or_left_out(tmp_path: Path) -> None:
    loader: DataLoader[Any] = DataLoader(Dictionaries(image=torch.rand(4, 1, 32, 32), label=torch.arange(4)))
    with pytest.raises(VaexError, match="Labels must be 0"):
        trainer(tmp_path, Attention("vae")).test(module(), loader, verbose=False)
    logged = trainer(tmp_path, Attention("vae", scores=())).test(module(), loader, verbose=False)[0]
    assert not [name for name in logged if "auroc" in name]
    assert "attention/test/overlap" in logged


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"images_per_batch": 0}, "images_per_batch"),
        ({"figure_images": -1}, "figure_images"),
        ({"every_n_epochs": 0}, "every_n_epochs"),
        ({"figure_image": 3}, "option of the attention callback 'figure_image': did you mean 'figure_images'"),
        ({"size": "layer"}, "option of the attention callback 'size'"),
        ({"create_graph": True}, "option of the attention callback 'create_graph'"),
        ({"score": "atention"}, "did you mean 'attention'"),
        ({"scores": ["kll"]}, "did you mean 'kl'"),
        ({"target": "means"}, "did you mean 'mean'"),
        ({"method": "gradcam"}, "did you mean 'grad_cam'"),
        ({"latents": 2}, "latents must be a list of whole numbers"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VaexError, match=sentence):
        Attention("vae", **options)


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (Attention("vea"), "Unknown module to explain in VAEModule 'vea': did you mean 'vae'"),
        (Attention("vae.nowhere"), "Unknown module to explain in VAEModule 'vae.nowhere'"),
        (Attention("hparams"), "Unknown module to explain in VAEModule 'hparams'"),
        (Attention("vae", "conv9"), "Layer 'conv9' does not exist in VAE: did you mean 'conv"),
    ],
)
def test_wrong_names_end_the_run_before_its_first_step(callback: Attention, sentence: str, tmp_path: Path) -> None:
    model = module()
    run = trainer(tmp_path, callback, num_sanity_val_steps=0)
    with pytest.raises(VaexError, match=sentence):
        run.fit(model, datamodule=sprites())
    assert run.global_step == 0
