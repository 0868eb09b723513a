"""VAEModule with the attention term: its steps, its validation under every mode, compiled, resumed and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from tests.modules.conftest import same, sprites, train
from vaex.attention import attention_maps
from vaex.modules import VAEModule
from vaex.modules.vae import step_seed
from vaex.objectives.attention import AttentionDisentanglement
from vaex.objectives.terms import AFTER_TRAINING

Maps = Callable[..., Tensor]
NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 5, "width": 8, "depth": 3, "hidden": 32}


def built(weight: float = 200.0, compile: bool = False, **options: Any) -> VAEModule:  # noqa: A002
    objective = {"name": "vae", "attention": {"weight": weight, "layer": "relu2", **options}}
    return VAEModule(NETWORK, objective, {"name": "sgd", "lr": 1e-4}, seed=4, compile=compile)


class Logged(pl.Callback):
    """Keep the values of every training step and validation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def detached(activation: Tensor, targets: Tensor, **options: Any) -> Tensor:
    return attention_maps(activation, targets, **options).detach()


def constant_weights(activation: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Maps whose channel weights carry no graph, as the published reproductions have them."""
    maps = []
    for target in targets.T:
        (gradient,) = torch.autograd.grad(target.sum(), activation, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu())
    return torch.stack(maps, 1)


def test_a_step_differs_from_that_of_detached_maps_and_of_constant_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(maps: Maps, weight: float = 200.0) -> dict[str, Tensor]:
        monkeypatch.setattr("vaex.objectives.attention.attention_maps", maps)
        module = built(weight)
        train(tmp_path, module, max_steps=1, max_epochs=1)
        return {name: value.clone() for name, value in module.vae.state_dict().items()}

    true, cut, constant = weights(attention_maps), weights(detached), weights(constant_weights)
    off = weights(attention_maps, 0.0)
    assert same(cut, off)  # detached maps teach nothing
    for name in ("encoder.conv1.weight", "encoder.conv2.weight"):  # up to the layer: both ways teach
        assert not torch.allclose(true[name], cut[name], atol=1e-5, rtol=0)
    # what lies behind the layer learns by the second order alone (the layers are linear but for ReLU)
    for name in ("encoder.conv3.weight", "encoder.fc1.weight", "encoder.mean.weight"):
        assert not torch.allclose(true[name], constant[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(constant["encoder.mean.weight"], off["encoder.mean.weight"])
    assert torch.equal(true["decoder.fc1.weight"], off["decoder.fc1.weight"])  # the decoder has no part in it


def test_training_takes_the_overlap_down(tmp_path: Path) -> None:
    last = []
    for weight in (1e-9, 2000.0):
        objective = {"name": "vae", "attention": {"weight": weight, "layer": "relu2"}}
        rows = Logged()
        train(tmp_path, VAEModule(NETWORK, objective, {"name": "adam", "lr": 3e-3}, seed=4), rows, max_epochs=4)
        last.append(rows.rows[-1]["train/attention_overlap"])
        assert all(0 <= row["train/attention_overlap"] <= 1 for row in rows.rows)
        assert rows.rows[0]["train/attention_weight"] == pytest.approx(weight)
    assert last[1] < 0.7 * last[0]


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("pairs", ["all", "random", "most_active"])
def test_validation_logs_the_value_of_the_term(tmp_path: Path, inference_mode: bool, pairs: str) -> None:
    module = built(pairs=pairs)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        inference_mode=inference_mode,
    )
    data = sprites(eval_batch_size=5)
    (logged,) = trainer.validate(module, datamodule=data, verbose=False)
    images = data.val_set.__getitems__(list(range(8)))["image"]
    total = overlap = 0.0
    for number, batch in enumerate(images.split(5)):
        torch.manual_seed(step_seed(4, "val", 0, number, 0))
        output = module.vae.eval()(batch, keep=module.objective.keep, sample=True)
        terms = module.objective(batch, output, AFTER_TRAINING)
        total += terms.total.item() * len(batch)
        overlap += terms.parts["attention_overlap"].item() * len(batch)
    assert logged["val/loss"] == pytest.approx(total / 8, rel=1e-5)
    assert logged["val/attention_overlap"] == pytest.approx(overlap / 8, rel=1e-5)
    assert logged["val/attention_weight"] == 200
    assert overlap > 0
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_no_graph_is_left_by_an_evaluation(mode: Any) -> None:
    module = built().eval()
    with mode():
        terms = module._terms({"image": torch.rand(2, 1, 32, 32)})
    values = [terms.total, *terms.parts.values()]
    assert all(not value.requires_grad and value.grad_fn is None for value in values)
    assert module._terms({"image": torch.rand(2, 1, 32, 32)}).total.requires_grad  # a training step has one


def test_compiled_training_is_the_plain_one(tmp_path: Path) -> None:
    """The step runs eagerly: compiled code has no double backward."""
    weights = []
    for compiled in (False, True):
        module = built(compile=compiled)
        train(tmp_path, module, max_epochs=1)
        weights.append(module.vae.state_dict())
    assert same(*weights)


def test_a_resumed_run_repeats_its_random_pairs(tmp_path: Path) -> None:
    whole = built(pairs="random")
    train(tmp_path, whole, max_epochs=2)
    first = built(pairs="random")
    trainer = train(tmp_path, first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)
    rest = built(pairs="random")
    again = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    again.fit(rest, datamodule=sprites(), ckpt_path=tmp_path / "half.ckpt")
    assert same(rest.vae.state_dict(), whole.vae.state_dict())
    assert not same(rest.vae.state_dict(), first.vae.state_dict())


def test_it_trains_and_validates_in_bfloat16(tmp_path: Path) -> None:
    rows = Logged()
    trainer = train(tmp_path, built(), rows, max_epochs=1, precision="bf16-mixed")
    assert all(0 <= row["train/attention_overlap"] <= 1 for row in rows.rows)
    assert rows.rows[0]["train/attention_overlap"] > 0
    assert 0 <= float(trainer.callback_metrics["val/attention_overlap"]) <= 1


def test_a_checkpoint_rebuilds_it(tmp_path: Path) -> None:
    module = built(pairs="neighbours", layer=None, warmup={"kind": "linear", "steps": 3})
    train(tmp_path, module, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    again = VAEModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    for each in (module, again):
        assert isinstance(each.objective, AttentionDisentanglement)
        assert each.objective.keep == ("encoder.conv3",)  # the last of the encoder, found when it was built
        assert each.objective.term.pairs == "neighbours"
    assert same(again.vae.state_dict(), module.vae.state_dict())
