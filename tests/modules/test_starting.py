"""Runs that start where another one stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from tests.modules.conftest import NETWORK, same, train
from tests.modules.test_factor_vae import RATE, VAE_RATE, built
from vaex.errors import VaexError
from vaex.modules import VAEModule


def trunk(folder: Path, module: VAEModule | None = None) -> dict[str, Any]:
    train(folder, module or built(), max_epochs=1).save_checkpoint(folder / "trunk.ckpt")
    content: dict[str, Any] = torch.load(folder / "trunk.ckpt", weights_only=True)
    return content


class AtFirst(pl.Callback):
    """Keep weights and moments as they are before the first step."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.moments: list[dict[Any, Any]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not self.weights:
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
            for optimiser in trainer.optimizers:
                state = optimiser.state_dict()["state"]
                self.moments.append({k: {n: v.clone() for n, v in part.items()} for k, part in state.items()})


def forked(folder: Path, module: VAEModule, content: dict[str, Any]) -> tuple[AtFirst, pl.Trainer]:
    module.start_from(content, "trunk")
    first = AtFirst()
    return first, train(folder, module, first, max_epochs=1)


def test_a_fork_has_weights_and_moments_of_both_networks_and_counts_from_zero(tmp_path: Path) -> None:
    content = trunk(tmp_path)
    module = built(gamma=9.0, attention={"weight": 3.0}, optim={"name": "adam", "lr": VAE_RATE / 4})
    first, trainer = forked(tmp_path, module, content)
    assert same(first.weights, content["state_dict"])
    for own, saved in zip(first.moments, content["optimizer_states"], strict=True):
        assert own.keys() == saved["state"].keys()
        assert all(same(own[number], saved["state"][number]) for number in own)
        assert float(own[0]["step"]) == 6.0
    assert trainer.global_step == 6
    rates = [optimiser.param_groups[0]["lr"] for optimiser in trainer.optimizers]
    assert rates == [VAE_RATE / 4, RATE]  # its own
    assert [optimiser.param_groups[0]["betas"] for optimiser in trainer.optimizers] == [(0.9, 0.999), (0.5, 0.9)]
    assert not same(module.state_dict(), content["state_dict"])


def test_forks_of_one_objective_go_the_same_way_and_those_of_another_another(tmp_path: Path) -> None:
    content = trunk(tmp_path)
    ends = []
    for attention in ({}, {}, {"weight": 200.0, "layer": "conv1"}):
        module = built(attention=attention)
        forked(tmp_path, module, content)
        ends.append(module.state_dict())
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_a_discriminator_that_the_other_run_lacks_starts_anew(tmp_path: Path) -> None:
    other = VAEModule(NETWORK, {"name": "beta_vae"}, {"name": "adam", "lr": 1e-3})
    content, module = trunk(tmp_path, other), built()
    fresh = {name: value.clone() for name, value in module.discriminator.state_dict().items()}
    first, _ = forked(tmp_path, module, content)
    own = {name.removeprefix("discriminator."): v for name, v in first.weights.items() if name[0] == "d"}
    assert same(own, fresh)
    assert float(first.moments[0][0]["step"]) == 6.0
    assert first.moments[1] == {}
    # and the other way round
    plain = VAEModule(NETWORK, {"name": "vae"}, {"name": "adam"})
    kept, _ = forked(tmp_path, plain, trunk(tmp_path))
    assert len(kept.moments) == 1
    assert float(kept.moments[0][0]["step"]) == 6.0


def test_a_resumed_fork_goes_on_as_it_was(tmp_path: Path) -> None:
    content = trunk(tmp_path)
    module = built()
    module.start_from(content, "trunk")
    trainer = train(tmp_path, module, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "fork.ckpt")
    again = built()
    again.start_from(content, "trunk")  # even where it is said again
    first = AtFirst()
    rest = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[first],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    from tests.modules.conftest import sprites

    rest.fit(again, datamodule=sprites(), ckpt_path=tmp_path / "fork.ckpt", weights_only=True)
    assert same(first.weights, module.state_dict())
    assert float(first.moments[0][0]["step"]) == 12.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network": {**NETWORK, "latents": 4}},
            r"init=trunk was trained with network=.*'latents': 3.*choose the same",
        ),
        ({"optim": {"name": "sgd"}}, "init=trunk was trained with optim=adam, this run has sgd"),
        ({"objective": {"name": "factor_vae", "discriminator": {"width": 9}}}, "The discriminator of init=trunk"),
    ],
)
def test_another_network_or_optimiser_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = trunk(tmp_path)
    from vaex.modules import FactorVAEModule

    module = FactorVAEModule(**{"network": NETWORK, "optim": {"name": "adam", "lr": VAE_RATE}, **change})
    with pytest.raises(VaexError, match=message):
        module.start_from(content, "trunk")


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    content = trunk(tmp_path)
    del content["optimizer_states"]
    with pytest.raises(VaexError, match="holds weights alone, without optimisers"):
        built().start_from(content, "trunk")
