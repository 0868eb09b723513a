"""The traversal callback draws what the decoder says of moved codes, in any Trainer, and tells what it cannot draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import vaex.viz
from vaex.callbacks import Attention, Traversal
from vaex.callbacks.traversal import decoded_traversals, moved_codes, traversable
from vaex.data import Sprites
from vaex.errors import VaexError
from vaex.modules import VAEModule

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
GRID = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}


def sprites() -> Sprites:
    return Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8)


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    given: dict[str, Any] = quiet | {"accelerator": "cpu", "devices": 1, "max_epochs": 2} | options
    return pl.Trainer(**given, callbacks=list(callbacks), default_root_dir=folder)


class Foreign(pl.LightningModule):
    """A VAE that is none of vaex's: it returns (mean, logvar), and decodes to plain images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 4, 4)
        self.second = nn.Linear(4 * 8 * 8, 4)
        self.back = nn.Linear(2, 32 * 32)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.second(F.relu(self.first(images)).flatten(1)).chunk(2, 1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.back(z)).reshape(-1, 1, 32, 32)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images: Tensor = batch["image"]
        return (self.decode(self.encode(images)[0]) - images).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_moved_codes_change_one_latent_alone() -> None:
    moved = moved_codes(torch.tensor([[1.0, 2.0, 3.0]]), 1, torch.tensor([-3.0, 0.0, 3.0]))
    assert moved.tolist() == [[1.0, -3.0, 3.0], [1.0, 0.0, 3.0], [1.0, 3.0, 3.0]]


def test_each_image_is_what_the_decoder_says_of_its_code() -> None:
    model = VAEModule(NETWORK).vae.train()
    mean, values = torch.tensor([[0.3, -0.2, 0.9]]), torch.tensor([-2.0, 2.0])
    found = decoded_traversals(model, mean, [2, 0], values, (1, 32, 32))
    assert found.shape == (2, 2, 1, 32, 32)
    assert model.training
    model.eval()
    for row, latent in enumerate((2, 0)):
        for column, value in enumerate((-2.0, 2.0)):
            code = mean.clone()
            code[0, latent] = value
            torch.testing.assert_close(found[row, column], model.decode(code).mean[0])


def test_pictures_of_a_training_and_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    real = vaex.viz.traversal_figure

    def spy(decoded: Any, **options: Any) -> Any:
        drawn.append({"decoded": decoded, **options})
        return real(decoded, **options)

    monkeypatch.setattr(vaex.viz, "traversal_figure", spy)
    model, data = VAEModule(NETWORK, objective={"name": "beta_vae", "beta": 0.0}), sprites()
    folder = tmp_path / "run"
    run = trainer(
        tmp_path, Traversal("vae", steps=5, span=2.0, image=1, every_n_epochs=2, folder=str(folder)), max_epochs=4
    )
    run.fit(model, datamodule=data)
    names = [f"traversal_val_epoch{epoch:04d}.{kind}" for epoch in (1, 3) for kind in ("gif", "png")]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == names
    run.test(model, datamodule=data, verbose=False)
    with Image.open(folder / "figures" / "traversal_test.gif") as moving:
        shown = []
        for number in range(moving.n_frames):  # type: ignore[attr-defined]
            moving.seek(number)
            shown.append(moving.info["duration"])
    assert sum(shown) == 8 * 100  # 5 values forth and 3 back, where equal frames are one that stays

    images = next(iter(data.test_dataloader()))["image"][1:2]
    said = vaex.explain(model.vae, images)
    assert said.kl is not None
    order = said.kl[0].argsort(descending=True).tolist()
    last = drawn[-1]
    assert last["titles"] == [f"z{latent}  KL {float(said.kl[0, latent]):.2f} nats" for latent in order]
    assert last["values"] == [-2.0, -1.0, 0.0, 1.0, 2.0]
    np.testing.assert_allclose(last["maps"], said.maps[0, order].numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(last["image"], images[0].numpy())
    expected = decoded_traversals(model.vae, said.mean, order, torch.linspace(-2, 2, 5), (1, 32, 32))
    np.testing.assert_allclose(last["decoded"], expected.numpy(), rtol=1e-5, atol=1e-7)


def test_a_training_that_steps_end_is_drawn_at_its_end(tmp_path: Path) -> None:
    drawing = Traversal("vae", steps=3, every_n_epochs=9, folder=str(tmp_path))
    by_steps = {"max_epochs": -1, "max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    run = trainer(tmp_path, drawing, **by_steps)
    run.fit(VAEModule(NETWORK), datamodule=sprites())
    assert run.global_step == 4
    assert [path.suffix for path in sorted((tmp_path / "figures").iterdir())] == [".gif", ".png"]


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"max_epochs": 1, "val_check_interval": 0.5}, [3, 6]),
        ({"max_epochs": 2, "val_check_interval": 2, "check_val_every_n_epoch": None}, [2, 4, 6, 8, 10, 12]),
        ({"max_epochs": 2, "check_val_every_n_epoch": 2}, None),
    ],
    ids=["halves", "batches", "epochs"],
)
def test_validations_of_one_epoch_keep_a_picture_each(
    options: dict[str, Any], batches: list[int] | None, tmp_path: Path
) -> None:
    pictures = [Traversal("vae", steps=2, every_n_epochs=1), Attention("vae", every_n_epochs=1, figure_images=1)]
    trainer(tmp_path, *pictures, **options).fit(VAEModule(NETWORK), datamodule=sprites())  # 6 batches an epoch
    ends = ["epoch0001"] if batches is None else [f"step{batch:07d}" for batch in batches]
    expected = [f"{what}_val_{end}.png" for what in ("attention", "traversal") for end in ends]
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == expected


def test_training_is_that_of_a_run_without(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [Traversal("vae", steps=3, every_n_epochs=1)]):
        module = VAEModule(NETWORK, seed=1)
        trainer(tmp_path, *callbacks).fit(module, datamodule=sprites())
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_foreign_model_in_a_plain_trainer(tmp_path: Path) -> None:
    data = sprites()
    data.setup("fit")
    run = trainer(tmp_path, Traversal(steps=3), max_epochs=1)
    run.fit(Foreign(), data.train_dataloader(), data.val_dataloader())
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "traversal_val_epoch0000.gif",
        "traversal_val_epoch0000.png",
    ]


class Remembering(Logger):
    """Takes images and moving pictures as wandb's logger does."""

    name, version = "remembering", 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        return

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return

    def log_image(self, key: str, images: list[Any], step: Any) -> None:
        self.seen.append((key, images[0].shape))

    def log_video(self, key: str, videos: list[Any], step: Any, format: list[str]) -> None:  # noqa: A002
        self.seen.append((key, (Path(videos[0]).is_file(), format)))


def test_loggers_get_the_grid_and_the_moving_picture(tmp_path: Path) -> None:
    logger = Remembering()
    run = trainer(tmp_path, Traversal("vae", steps=3), logger=logger)
    run.test(VAEModule(NETWORK), datamodule=sprites(), verbose=False)
    with Image.open(tmp_path / "figures" / "traversal_test.png") as found:
        size = (found.height, found.width, 3)
    assert logger.seen == [("traversal/test/grid", size), ("traversal/test/animation", (True, ["gif"]))]


@pytest.mark.slow
def test_wandb_offline_keeps_both(tmp_path: Path) -> None:
    logger = WandbLogger(project="vaex", save_dir=str(tmp_path), offline=True)
    run = trainer(tmp_path, Traversal("vae", steps=3), logger=logger)
    run.test(VAEModule(NETWORK), datamodule=sprites(), verbose=False)
    logger.experiment.finish()
    kept = sorted(path.suffix for path in tmp_path.rglob("media/**/*") if path.is_file())
    assert kept == [".gif", ".png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 1}, "steps of at least 2"),
        ({"steps": 2.5}, "steps of at least 1, got 2.5"),
        ({"span": 0.0}, "a positive span"),
        ({"image": -1}, "an image of 0 or more"),
        ({"every_n_epochs": 0}, "every_n_epochs of at least 1"),
        ({"stepps": 3}, "Unknown option of the traversal callback 'stepps': did you mean 'steps'"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        Traversal(**options)


def test_what_cannot_be_drawn_is_left_out_where_it_is_optional(tmp_path: Path) -> None:
    class Encoder(nn.Module):
        def __init__(self, grid: bool) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, 2, 1)
            self.grid = grid

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.conv(images)
            return found if self.grid else found.mean((2, 3))

    images = torch.rand(1, 1, 32, 32)
    assert not traversable(Encoder(grid=True), images)
    assert not traversable(Encoder(grid=False), images)  # a code, but no decoder
    module = VAEModule(NETWORK)
    assert traversable(module.vae, images)
    module.vae = Encoder(grid=False)  # type: ignore[assignment]
    drawing = Traversal("vae", folder=str(tmp_path), optional=True)
    drawing._image = images
    drawing._draw(trainer(tmp_path, drawing), module, "test")
    assert not (tmp_path / "figures").exists()
    drawing.optional = False
    with pytest.raises(VaexError, match="decodes no images"):
        drawing._draw(trainer(tmp_path, drawing), module, "test")


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"latent grid \(1, 3, 2, 2\)"):
        moved_codes(torch.zeros(1, 3, 2, 2), 0, torch.zeros(2))
    with pytest.raises(VaexError, match=r"Conv2d decodes no images \(1, 8, 8\)"):
        decoded_traversals(nn.Conv2d(1, 1, 1), torch.zeros(1, 2), [0], torch.zeros(2), (1, 8, 8))
    with pytest.raises(VaexError, match="image 9 of a first batch of 8"):
        trainer(tmp_path, Traversal("vae", image=9)).test(VAEModule(NETWORK), datamodule=sprites(), verbose=False)
    with pytest.raises(VaexError, match="Unknown module to explain in VAEModule 'vea': did you mean 'vae'"):
        trainer(tmp_path, Traversal("vea")).fit(VAEModule(NETWORK), datamodule=sprites())
