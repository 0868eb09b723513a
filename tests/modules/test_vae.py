"""VAEModule under Lightning: reproducible, right in what it logs, and plain in its checkpoints."""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

import vaex
from tests.modules.conftest import NETWORK, same, sprites, train, trainer_of
from vaex.errors import VaexError
from vaex.modules import FactorVAEModule, VAEModule
from vaex.modules.plain_values import plain
from vaex.modules.vae import step_seed
from vaex.objectives import ELBO

# Reproducible


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(0)
    first = VAEModule(NETWORK, seed=4)
    torch.rand(17)
    before = torch.random.get_rng_state()
    second = VAEModule(NETWORK, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)  # and what is drawn behind it stays what it was
    other = VAEModule(NETWORK, seed=5)
    assert same(first.state_dict(), second.state_dict())
    assert not same(first.state_dict(), other.state_dict())


def test_training_depends_on_the_seed_alone(tmp_path: Path) -> None:
    trained = []
    for noise, seed in ((1, 4), (2, 4), (1, 5)):
        torch.manual_seed(noise)
        module = VAEModule(NETWORK, optim={"name": "adam", "lr": 1e-2}, seed=4)
        module.hparams["seed"] = seed  # of the noise of z; the weights start alike
        train(tmp_path, module)
        trained.append(module.state_dict())
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


OBJECTIVES = {"vae": (VAEModule, {"name": "vae"}), "factor_vae": (FactorVAEModule, {"name": "factor_vae"})}
SHAPES: dict[str, Any] = {
    "tensors": lambda images, labels: images,
    "tuples": lambda images, labels: (images, labels),
    "images by another name": lambda images, labels: {"images": images, "label": labels},
}


@pytest.mark.parametrize(("objective", "shape"), [*(("vae", shape) for shape in SHAPES), ("factor_vae", "tuples")])
def test_batches_of_any_shape_train_alike(objective: str, shape: str, tmp_path: Path) -> None:
    """What a tuple holds beside images may be classes, so that nothing is left out as anomalous."""
    images = torch.rand(24, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    kind, options = OBJECTIVES[objective]
    trained = []
    for shaped in (lambda images, labels: {"image": images}, SHAPES[shape]):
        batches: Any = [shaped(part, torch.zeros(8, dtype=torch.long)) for part in images.split(8)]
        module = kind(NETWORK, objective=options, seed=4)
        trainer = trainer_of(tmp_path, max_epochs=1)
        loader: Any = DataLoader(batches, batch_size=None)
        trainer.fit(module, loader, loader)
        found = {name: float(value) for name, value in trainer.test(module, loader, verbose=False)[0].items()}
        trained.append((module.state_dict(), found))
    assert same(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_a_batch_without_images_is_told(tmp_path: Path) -> None:
    batches: Any = [{"pixels": torch.rand(4, 1, 32, 32)}]
    with pytest.raises(VaexError, match=r"Found no images \(B, C, H, W\) in the batch"):
        trainer_of(tmp_path).fit(VAEModule(NETWORK), DataLoader(batches, batch_size=None))


def test_seeds_of_steps_differ_in_every_part() -> None:
    parts = [
        (0, "train", 1, 2, 3),
        (1, "train", 1, 2, 3),
        (0, "val", 1, 2, 3),
        (0, "train", 2, 1, 3),
        (0, "train", 1, 3, 2),
    ]
    seeds = {step_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert len({step_seed(0, "train", e, b, 0) for e in range(30) for b in range(100)}) == 3000
    assert step_seed(*parts[0]) == step_seed(*parts[0])


# What is logged


class Logged(pl.Callback):
    """Keep the values of every training step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_logged_terms_are_those_of_the_objective(tmp_path: Path) -> None:
    module = VAEModule(NETWORK, {"name": "beta_vae", "beta": 3.0}, seed=4)
    rows = Logged()
    train(tmp_path, module, rows, max_epochs=1)
    assert {"train/loss", "train/reconstruction", "train/kl", "train/beta"} <= rows.rows[0].keys()
    for row in rows.rows:
        assert row["train/loss"] == pytest.approx(row["train/reconstruction"] + 3 * row["train/kl"], rel=1e-5)
        assert row["train/reconstruction"] > 0
        assert row["train/kl"] >= 0
    # nats of 32x32 pixels: an untrained decoder is unsure of each, by about log 2
    assert rows.rows[0]["train/reconstruction"] == pytest.approx(1024 * math.log(2), rel=0.25)


def test_validation_is_the_average_over_images(tmp_path: Path) -> None:
    """Batches of 5 and 3 images must not weigh alike."""
    module = VAEModule(NETWORK, {"name": "vae"}, seed=4)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    data = sprites(eval_batch_size=5)
    (logged,) = trainer.validate(module, datamodule=data, verbose=False)
    images = data.val_set.__getitems__(list(range(8)))["image"]
    total = 0.0
    for number, batch in enumerate(images.split(5)):
        torch.manual_seed(step_seed(4, "val", 0, number, 0))
        with torch.no_grad():
            output = module.eval().vae(batch, sample=True)
        total += ELBO()(batch, output, 0).total.item() * len(batch)
    assert logged["val/loss"] == pytest.approx(total / 8, rel=1e-5)
    assert trainer.validate(module, datamodule=data, verbose=False) == [logged]
    assert set(trainer.test(module, datamodule=data, verbose=False)[0]) == {
        f"test/{name}" for name in ("loss", "reconstruction", "kl", "beta")
    }


def test_warmup_counts_optimiser_steps(tmp_path: Path) -> None:
    module = VAEModule(NETWORK, {"name": "beta_vae", "beta": 8.0, "warmup": {"kind": "linear", "steps": 4}})
    rows = Logged()
    train(tmp_path, module, rows, max_epochs=1, accumulate_grad_batches=2)
    assert [row["train/beta"] for row in rows.rows] == [0, 0, 2, 2, 4, 4]


def test_schedule_runs_over_the_whole_run(tmp_path: Path) -> None:
    module = VAEModule(NETWORK, optim={"name": "sgd", "lr": 1e-3}, schedule={"name": "cosine", "final": 0.25})
    trainer = train(tmp_path, module)
    assert trainer.global_step == 12
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25e-3)


def test_training_makes_the_loss_fall(tmp_path: Path) -> None:
    module = VAEModule(NETWORK, {"name": "vae"}, {"name": "adam", "lr": 1e-2}, seed=1)
    rows = Logged()
    train(tmp_path, module, rows, max_epochs=10)
    assert rows.rows[-1]["train/loss"] < 0.4 * rows.rows[0]["train/loss"]


def test_forward_takes_the_mean() -> None:
    module = VAEModule(NETWORK).train()
    output = module(torch.rand(2, 1, 32, 32))
    assert torch.equal(output.z, output.posterior.mean)


# Checkpoints


def test_a_checkpoint_rebuilds_itself_under_lightning_and_without(tmp_path: Path) -> None:
    module = VAEModule(NETWORK, {"name": "vae"}, seed=np.int64(3), run={"data": {"size": np.float64(0.5)}})  # type: ignore[arg-type]
    trainer = train(tmp_path, module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = VAEModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert same(again.state_dict(), module.state_dict())
    assert dict(again.hparams) == dict(module.hparams)
    assert type(again.objective) is ELBO
    model = vaex.load(tmp_path / "a.ckpt")
    assert same(model.state_dict(), module.vae.state_dict())
    assert model.config == dict(module.hparams)
    assert VAEModule(**model.config).hparams == module.hparams


def test_plain_turns_everything_into_what_checkpoints_hold() -> None:
    class Mode(str, enum.Enum):  # noqa: UP042 - whose str() is not its value
        FAST = "fast"

    class Level(enum.IntEnum):
        HIGH = 3

    config = OmegaConf.create({"a": [1, {"b": None}], "c": "${a}"})
    value = {
        "config": config,
        "tuple": (1, (2.5, True)),
        "size": torch.Size([1, 2]),
        "number": np.float64(0.5),
        "mode": Mode.FAST,
        "level": Level.HIGH,
        7: "seven",
    }
    result = plain(value)
    assert result == {
        "config": {"a": [1, {"b": None}], "c": [1, {"b": None}]},
        "tuple": [1, [2.5, True]],
        "size": [1, 2],
        "number": 0.5,
        "mode": "fast",
        "level": 3,
        "7": "seven",
    }
    assert {type(result[name]) for name in ("number", "mode", "level")} == {float, str, int}
    assert type(result["config"]["a"]) is list
    assert type(result["tuple"][1][1]) is bool


@pytest.mark.parametrize("value", [Path("x"), torch.ones(2), np.ones(2), {1, 2}, object(), len, b"x"])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(VaexError, match=f"A config holds plain values only .*, got {type(value).__name__}"):
        VAEModule(NETWORK, run={"nested": [{"deep": value}]})


def test_unknown_names_are_told_when_the_module_is_made() -> None:
    with pytest.raises(VaexError, match="did you mean 'conv'"):
        VAEModule({**NETWORK, "name": "con"})
    with pytest.raises(VaexError, match="did you mean 'beta_vae'"):
        VAEModule(NETWORK, {"name": "betavae"})


@pytest.mark.parametrize("change", [{"optim": {"name": "adamm"}}, {"schedule": {"name": "cosinus"}}])
def test_unknown_optimisers_are_told_when_training_starts(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(VaexError, match="did you mean"):
        train(tmp_path, VAEModule(NETWORK, **change))


def test_a_schedule_that_falls_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"needs an end: set trainer\.max_epochs or trainer\.max_steps"):
        train(tmp_path, VAEModule(NETWORK, schedule={"name": "cosine"}), max_epochs=-1)


def test_noise_differs_between_epochs_and_is_the_same_in_every_validation(tmp_path: Path) -> None:
    class Seeds(pl.Callback):
        def __init__(self) -> None:
            self.train: list[int] = []
            self.val: list[int] = []

        def on_train_batch_end(self, *_: Any) -> None:
            self.train.append(torch.initial_seed())

        def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if not trainer.sanity_checking:
                self.val.append(torch.initial_seed())

    seeds = Seeds()
    train(tmp_path, VAEModule(NETWORK), seeds, max_epochs=3)
    assert len(set(seeds.train)) == len(seeds.train) == 18
    assert len(seeds.val) == 3
    assert len(set(seeds.val)) == 1
    assert not set(seeds.val) & set(seeds.train)
