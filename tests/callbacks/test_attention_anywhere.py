"""The attention callback beside any training: modules that vaex does not own, and weights that never notice it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vaex
from vaex.callbacks import Attention
from vaex.data import Sprites
from vaex.modules import VAEModule

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
GRID = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}


def sprites() -> Sprites:
    return Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8)


def module(**network: Any) -> VAEModule:
    return VAEModule(NETWORK | network, objective={"name": "beta_vae", "beta": 0.0}, optim={"name": "adam", "lr": 0.01})


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given: dict[str, Any] = quiet | {"accelerator": "cpu", "devices": 1, "max_epochs": 2} | options
    return pl.Trainer(**given, callbacks=list(callbacks), default_root_dir=folder)


class Recorder(Attention):
    """The callback, remembering what it explained."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.counts: list[tuple[str, int]] = []

    def _explained(self, pl_module: pl.LightningModule, images: Tensor, scores: Any = ()) -> Any:
        self.counts.append((str(pl_module.trainer.state.stage), len(images)))
        return super()._explained(pl_module, images, scores)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 4, 2, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 4, 2, 1),
            nn.Dropout(0.2),
        )
        self.heads = nn.Linear(4 * 8 * 8, 4)


class Foreign(pl.LightningModule):
    """A VAE that vaex does not own: (recon, mu, logvar), tuples as batches, random numbers in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net, self.decoder = Net(), nn.Linear(2, 32 * 32)

    def forward(self, x: Tensor) -> Any:
        mu, logvar = self.net.heads(self.net.encoder(x).flatten(1)).chunk(2, 1)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        return self.decoder(z).view_as(x), mu, logvar

    def training_step(self, batch: Any) -> Tensor:
        recon, mu, logvar = self(batch[0])
        loss: Tensor = (recon - batch[0]).square().mean() + (mu**2 + logvar.exp() - logvar).mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def tuples(count: int = 12, batch_size: int = 4, seed: int = 0, shuffle: bool = False) -> DataLoader[Any]:
    images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(images, torch.arange(count)), batch_size=batch_size, shuffle=shuffle)


def test_small_batches_and_several_loaders(tmp_path: Path) -> None:
    watch = Recorder("", "net.encoder.3", figure_images=6)
    run = trainer(tmp_path, watch, max_epochs=1, num_sanity_val_steps=0)
    run.fit(Foreign(), tuples(), [tuples(3, 2), tuples(5, 5, seed=1)])
    assert [count for _, count in watch.counts] == [2, 1, 5, 6]  # the last is the picture
    assert "attention/val/entropy" in run.callback_metrics


def test_training_without_validation(tmp_path: Path) -> None:
    run = trainer(tmp_path, Attention("net.encoder", "0"), max_epochs=1)
    run.fit(Foreign(), tuples())
    assert not (tmp_path / "figures").exists()


def test_a_second_fit_without_validation_draws_nothing_of_the_first(tmp_path: Path) -> None:
    callback = Attention("net.encoder", "0")
    trainer(tmp_path / "first", callback, max_epochs=1).fit(Foreign(), tuples(), tuples(3, 2))
    assert (tmp_path / "first" / "figures").exists()
    trainer(tmp_path / "second", callback, max_epochs=1).fit(Foreign(), tuples())
    assert callback._first.chosen() is None
    assert not (tmp_path / "second" / "figures").exists()


def weights_after(folder: Path, make: Callable[[], pl.LightningModule], data: Any, *callbacks: Any) -> list[Tensor]:
    pl.seed_everything(3, verbose=False)
    model = make()
    trainer(folder, *callbacks, val_check_interval=3).fit(model, **data())
    return [*model.state_dict().values(), torch.get_rng_state()]


@pytest.mark.parametrize("kind", ["own", "own with batch-norm", "foreign"])
def test_weights_statistics_and_random_stream_are_those_without(kind: str, tmp_path: Path) -> None:
    makers: dict[str, tuple[Callable[[], pl.LightningModule], Callable[[], Any], Attention]] = {
        "own": (module, lambda: {"datamodule": sprites()}, Attention("vae", target="sample", figure_images=1)),
        "own with batch-norm": (
            lambda: module(norm="batch"),
            lambda: {"datamodule": sprites()},
            Attention("vae", figure_images=1),
        ),
        "foreign": (
            Foreign,
            lambda: {"train_dataloaders": tuples(shuffle=True), "val_dataloaders": tuples(seed=1)},
            Attention("", "net.encoder.0", figure_images=1),
        ),
    }
    make, data, callback = makers[kind]
    without = weights_after(tmp_path, make, data)
    found = weights_after(tmp_path, make, data, callback)
    assert (tmp_path / "figures").is_dir()
    assert len(found) == len(without)
    assert all(torch.equal(a, b) for a, b in zip(found, without, strict=True))


@pytest.mark.parametrize(("path", "layer"), [("", None), ("", "3"), ("", "net.encoder.0"), ("net.encoder", "0")])
def test_a_module_that_vaex_does_not_own(path: str, layer: str | None, tmp_path: Path) -> None:
    class Pooled(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.net.encoder.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten()])
            self.net.heads = nn.Linear(16, 4)

    model = Pooled()
    run = trainer(tmp_path, Attention(path, layer), max_epochs=1)
    run.fit(model, tuples(), tuples(seed=1))
    logged = run.validate(model, tuples(seed=1), verbose=False)[0]
    target = model if path == "" else model.net.encoder
    parts = [vaex.explain(target, batch[0], layer) for batch in tuples(seed=1)]
    maps = torch.cat([part.maps for part in parts])
    kl = None if parts[0].kl is None else torch.cat([part.kl for part in parts if part.kl is not None])
    active = list(range(maps.shape[1])) if kl is None else [i for i, mean in enumerate(kl.mean(0)) if mean > 0.01]
    chosen = active if len(active) > 1 else list(range(maps.shape[1]))
    pairs = [(maps[:, i], maps[:, j]) for i in chosen for j in chosen if i < j]
    ratios = [2 * torch.minimum(a, b).sum((1, 2)) / (a + b).sum((1, 2)).clamp(min=1e-30) for a, b in pairs]
    assert logged["attention/val/overlap"] == pytest.approx(float(torch.stack(ratios).mean()), rel=1e-4)
    assert 0 < logged["attention/val/entropy"] < 1
    assert logged.get("attention/val/active_latents") == (None if kl is None else len(active))
    assert "attention/val/pointing_game" not in logged
    assert (kl is None) == (path == "net.encoder")
    with np.load(tmp_path / "maps" / "attention_val.npz") as saved:
        assert ("kl" in saved) == (kl is not None)
        assert "reconstruction" not in saved


def test_latent_grids_are_measured_and_drawn(tmp_path: Path) -> None:
    class GridVAE(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.grid = nn.Conv2d(4, 6, 1)

        def forward(self, x: Tensor) -> Any:
            mean, logvar = self.grid(self.net.encoder(x)).chunk(2, 1)
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, logvar=logvar))

    logged = trainer(tmp_path, Attention()).validate(GridVAE(), tuples(), verbose=False)[0]
    assert logged["attention/val/active_latents"] == 3
    assert (tmp_path / "figures" / "attention_val.png").is_file()
