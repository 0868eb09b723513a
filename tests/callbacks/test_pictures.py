"""What the attention callback draws and writes is what `explain` says about the first images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import vaex
from vaex.callbacks import Attention
from vaex.data import Sprites
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


def sprites_val() -> DataLoader[Any]:
    data = sprites()
    data.setup("fit")
    return data.val_dataloader()


def test_pictures_and_maps_are_those_of_explain(tmp_path: Path) -> None:
    model, data = module(), sprites()
    folder = tmp_path / "run"
    callback = Attention("vae", folder=str(folder), figure_images=3, every_n_epochs=2)
    run = trainer(tmp_path, callback, max_epochs=4)
    run.fit(model, datamodule=data)
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == ["attention_val_epoch0001.png", "attention_val_epoch0003.png"]
    assert not (folder / "maps").exists()
    run.validate(model, datamodule=data, verbose=False)
    run.test(model, datamodule=data, verbose=False)
    for stage, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        images = next(iter(loader))["image"][:3]
        with Image.open(folder / "figures" / f"attention_{stage}.png") as picture:
            assert min(picture.size) > 300
        expected = vaex.explain(model.vae, images)
        with np.load(folder / "maps" / f"attention_{stage}.npz") as saved:
            assert set(saved) == {"images", *expected._fields}
            assert np.array_equal(saved["images"], images.numpy())
            for name, value in zip(expected._fields, expected, strict=True):
                assert value is not None
                assert np.array_equal(saved[name], value.numpy()), name


def test_columns_are_the_most_active_latents_with_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def figure(images: Any, recon: Any, maps: Any, **options: Any) -> Any:
        drawn.update(options, maps=maps, recon=recon)
        return Figure((1, 1))

    monkeypatch.setattr("vaex.viz.attention_figure", figure)
    model = module()
    with torch.no_grad():
        model.vae.encoder.mean.bias.copy_(torch.tensor([0.5, 3.0, 1.5]))
        model.vae.encoder.mean.weight *= 0.01
        model.vae.encoder.logvar.weight.zero_()
        model.vae.encoder.logvar.bias.zero_()
    images = next(iter(sprites_val()))["image"][:6]
    whole = vaex.explain(model.vae, images, rectify="abs")
    cases: list[tuple[dict[str, Any], list[str], Tensor]] = [
        ({}, ["z1  KL 4.50 nats", "z2  KL 1.12 nats", "z0  KL 0.12 nats"], whole.maps[:, [1, 2, 0]]),
        ({"figure_latents": 1}, ["z1  KL 4.50 nats"], whole.maps[:, [1]]),
        ({"latents": [0, 2]}, ["z2  KL 1.12 nats", "z0  KL 0.12 nats"], whole.maps[:, [2, 0]]),
        ({"latents": [2]}, ["z2  KL 1.12 nats"], whole.maps[:, [2]]),
        ({"target": "sum"}, ["total"], vaex.explain(model.vae, images, target="sum", rectify="abs").maps),
        ({"target": lambda q: q.mean[:, :2]}, ["target 0", "target 1"], whole.maps[:, :2]),
    ]
    for options, titles, maps in cases:
        logged = trainer(tmp_path, Attention("vae", rectify="abs", **options)).validate(
            model, datamodule=sprites(), verbose=False
        )[0]
        assert [title.replace("1.13", "1.12") for title in drawn["titles"]] == titles
        np.testing.assert_allclose(drawn["maps"], maps, rtol=1e-4, atol=1e-4 * float(maps.max()))
        assert drawn["masks"].shape == (6, 1, 32, 32)
        assert logged["attention/val/active_latents"] == 3


def test_loggers_that_take_images_get_the_picture(tmp_path: Path) -> None:
    class Taking(Logger):
        def __init__(self) -> None:
            super().__init__()
            self.pictures: list[tuple[str, Any, int]] = []

        @property
        def name(self) -> str:
            return "fake"

        @property
        def version(self) -> str:
            return "0"

        def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

        def log_hyperparams(self, params: Any) -> None: ...

        def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
            self.pictures.extend((key, image, step or 0) for image in images)

    taking, board, table = Taking(), TensorBoardLogger(tmp_path / "tb"), CSVLogger(tmp_path / "csv")
    run = trainer(tmp_path, Attention("vae", every_n_epochs=1), logger=[taking, board, table])
    run.fit(module(), datamodule=sprites())
    assert [(key, step) for key, _, step in taking.pictures] == [("attention/val/maps", 5), ("attention/val/maps", 11)]
    with Image.open(tmp_path / "figures" / "attention_val_epoch0001.png") as saved:
        assert np.array_equal(taking.pictures[1][1], np.asarray(saved))

    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(board.log_dir)
    events.Reload()
    numbers = [event.step for event in events.Scalars("attention/val/overlap")]
    assert [event.step for event in events.Images("attention/val/maps")] == numbers == [5, 11]
    assert "attention/val/overlap" in (Path(table.log_dir) / "metrics.csv").read_text()
