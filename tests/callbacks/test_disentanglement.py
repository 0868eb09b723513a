"""The disentanglement callback: when, of what, and that training does not notice."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

import vaex.viz.matrix
from vaex.callbacks import Disentanglement
from vaex.callbacks.disentanglement import information_picture
from vaex.coding import Codes, encoded
from vaex.data import Sprites
from vaex.errors import VaexError
from vaex.metrics.disentanglement.collection import all_scores
from vaex.modules import VAEModule

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
GRID = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}  # 64 sprites, 6 batches of 8 an epoch


class Kept(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.values: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[str, tuple[int, ...], int]] = []

    def log_metrics(self, metrics: Any, step: Any = None, **_: Any) -> None:
        own = {name: value for name, value in metrics.items() if name.startswith("disentanglement/")}
        if own:
            self.values.append((step, own))

    def log_image(self, key: str, images: Sequence[Any], step: int) -> None:
        self.pictures.append((key, images[0].shape, step))


def fit(folder: Path, *callbacks: pl.Callback, data: Any = None, **options: Any) -> tuple[pl.Trainer, VAEModule, Kept]:
    options = {"max_epochs": 2, **options}
    logger: Kept = options.pop("logger", None) or Kept()
    module: VAEModule = options.pop("module", None) or VAEModule(network=NETWORK)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trainer.fit(module, datamodule=data or Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8))
    return trainer, module, logger


def test_scores_come_every_n_batches_and_at_the_end(tmp_path: Path) -> None:
    callback = Disentanglement(names=["factor_vae", "mig"], every_n_steps=5, codes=None, seed=3)
    trainer, module, logger = fit(tmp_path, callback)
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [f"mutual_information_step{n:07d}.png" for n in (5, 10, 12)]
    assert [key for key, _, _ in logger.pictures] == ["disentanglement/val/mutual_information"] * 3
    table = encoded(module.vae, trainer.datamodule)  # type: ignore[attr-defined]
    expected = all_scores(table.codes, table.factors, ["factor_vae", "mig"], 3)
    last = {name: float(trainer.callback_metrics[f"disentanglement/val/{name}"]) for name in expected}
    assert last == pytest.approx(expected)
    assert [step for step, _ in logger.values] == [4, 9, 11]  # the rows of the 5th, 10th and 12th batch
    assert logger.values[-1][1] == pytest.approx({f"disentanglement/val/{name}": value for name, value in last.items()})


@pytest.mark.parametrize(("rows", "title"), [(3, "192 images"), (200, "10,000 images")])
def test_the_picture_names_collapsed_latents_and_how_many_images(
    rows: int, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    real = vaex.viz.matrix.matrix_figure

    def spy(*given: Any) -> Any:
        drawn.append(given)
        return real(*given)

    monkeypatch.setattr(vaex.viz.matrix, "matrix_figure", spy)
    factors = torch.cartesian_prod(torch.arange(4), torch.arange(16)).repeat(rows, 1)
    first, second = factors.double().T
    # A latent that stands still, and one that a decoder does not hear but a histogram reads
    codes = torch.stack([first, 1e-3 * second, torch.zeros_like(first), second, 0.049 * (-1) ** second], 1)
    information_picture(Codes(codes, factors, ("shape", "x")))
    ((values, names, columns, shown, scale),) = drawn
    spread = codes.std(0).tolist()
    assert names == [f"z{place}" + (", collapsed" if spread[place] < 0.05 else "") for place in range(5)]
    assert [name for name in names if "collapsed" in name] == ["z1, collapsed", "z2, collapsed", "z4, collapsed"]
    assert values[1, 1] > 2  # nats, of log 16: what made the mark necessary
    assert (columns, shown, scale) == (("shape", "x"), f"Mutual information, {title}", "nats")


def test_ends_of_training_by_steps(tmp_path: Path) -> None:
    fit(tmp_path, Disentanglement(names=["mig"], every_n_steps=100, codes=None), max_steps=3)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mutual_information_step0000003.png"]


def test_training_is_that_without(tmp_path: Path) -> None:
    _, plain, _ = fit(tmp_path / "a", max_epochs=1)
    _, watched, _ = fit(
        tmp_path / "b", Disentanglement(names=["factor_vae"], every_n_steps=2, codes=None), max_epochs=1
    )
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_a_validation_on_its_own_measures_its_weights_and_draws_nothing(tmp_path: Path) -> None:
    trainer, module, logger = fit(tmp_path, Disentanglement(names=["mig"], every_n_steps=9, codes=None), max_steps=2)
    before = len(logger.values), sorted((tmp_path / "figures").iterdir())
    with torch.no_grad():
        module.vae.encoder.mean.weight.mul_(1e4)  # latents that had collapsed
    trainer.validate(module, datamodule=trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    table = encoded(module.vae, trainer.datamodule)  # type: ignore[attr-defined]
    expected = all_scores(table.codes, table.factors, ["mig"])
    last = {name: float(trainer.callback_metrics[f"disentanglement/val/{name}"]) for name in expected}
    assert last == pytest.approx(expected)
    assert last["mig"] > logger.values[-1][1]["disentanglement/val/mig"] == 0
    assert (len(logger.values), sorted((tmp_path / "figures").iterdir())) == before


def test_data_without_factors_is_said_and_not_fatal(tmp_path: Path) -> None:
    class Plain(Sprites):
        @property
        def factor_names(self) -> Any:
            return ()

        @factor_names.setter
        def factor_names(self, value: Any) -> None:
            pass

    data = Plain(size=32, grid=GRID, val=8, test=8, batch_size=8)
    callback = Disentanglement(every_n_steps=1)
    trainer, _, logger = fit(tmp_path, callback, data=data, max_steps=2)
    assert not logger.values
    assert not (tmp_path / "figures").exists()
    with pytest.warns(UserWarning, match="Plain states no factors"):
        callback.on_fit_start(trainer, trainer.lightning_module)
    trainer.datamodule = None  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="^Data given as loaders, without a data module, states no factors, so"):
        callback.on_fit_start(trainer, trainer.lightning_module)


def test_codes_that_allow_no_vote_are_warned_of(tmp_path: Path) -> None:
    callback = Disentanglement(every_n_steps=1, codes=20)
    trainer, module, logger = fit(tmp_path, callback, max_steps=1)
    assert "disentanglement/val/mig" in logger.values[0][1]  # the other metric counts
    told = "factor_vae is not measured after 1 steps: A vote looks at 64 images, but there are the codes of 20"
    with pytest.warns(UserWarning, match=told):
        found = callback._scores(trainer, module.vae, trainer.datamodule)  # type: ignore[attr-defined]
    assert "mig" in found
    assert "factor_vae" not in found


def test_wrong_options_are_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match="did you mean 'mig'"):
        Disentanglement(names=["mgi"])
    with pytest.raises(VaexError, match="every_n_steps and batch_size"):
        Disentanglement(every_n_steps=0)
    with pytest.raises(VaexError, match="codes=1"):
        Disentanglement(codes=1)
    with pytest.raises(VaexError, match="seed must be a whole number"):
        Disentanglement(seed=-1)
    with pytest.raises(VaexError, match="Unknown module to encode with in VAEModule 'vea': did you mean 'vae'"):
        fit(tmp_path, Disentanglement("vea"))
