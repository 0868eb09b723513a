"""Training on pasted defects: what is kept of them, by what it is whitened, and what other objectives are spared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from vaex.data import Defects
from vaex.errors import VaexError
from vaex.modules import FeatureVAEModule, VAEModule
from vaex.networks.whitening import PositionWhitening
from vaex.types import Batch

GRID: dict[str, Any] = {
    "name": "feature_grid",
    "shape": [1, 32, 32],
    "blocks": [0],
    "size": 32,
    "grid": 8,
    "latents": 16,
    "hidden": 5,
    "decoder_hidden": 6,
    "rank": 4,
}
PIXELS: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "depth": 2}


def defects(**options: Any) -> Defects:
    sizes: dict[str, Any] = {"texture": "metal", "size": 32, "channels": 1, "train": 6, "val": 2}
    data = Defects(**{**sizes, "test_good": 1, "test_defects": 1, "pasted": 1, "batch_size": 4, **options})
    data.setup()
    return data


def module(network: dict[str, Any] = GRID, **objective: Any) -> VAEModule:
    kind = FeatureVAEModule if network is GRID else VAEModule
    return kind(network=network, objective={"name": "synthetic_attention", **objective})


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        **{"max_epochs": 1, **options},
    )


def raw(model: VAEModule, images: Tensor) -> Tensor:
    """Return features of images, whitened over channels and kept in half precision."""
    assert isinstance(model, FeatureVAEModule)
    features: Tensor = model.vae.whitening(model.vae.raw_features(images).half().float())
    return features.half().float()


def test_features_are_whitened_by_the_other_half_of_the_images(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            kept = pl_module.kept
            seen["values"], seen["rows"] = kept.values.float().clone(), kept.rows  # type: ignore[union-attr, operator]

    data, model = defects(), module()
    trainer(tmp_path, Look(), limit_val_batches=0).fit(model, datamodule=data)
    batch = data.train_set.__getitems__(list(range(12)))
    features = raw(model, batch["image"])
    assert seen["rows"] == {i: i for i in range(12)}
    clean, copies = features[::2], seen["values"].unflatten(0, (6, 2))
    for half in (0, 1):
        other = PositionWhitening(16, 8, rank=4)
        other.fit(clean[1 - half :: 2])
        expected = other(features).unflatten(0, (6, 2))
        torch.testing.assert_close(copies[half::2], expected[half::2], rtol=0.02, atol=0.02)
    own = PositionWhitening(16, 8, rank=4)  # the model's is fitted to all normal images
    own.fit(clean)
    torch.testing.assert_close(model.vae.position(features), own(features), rtol=0.02, atol=0.02)  # type: ignore[operator]


def test_the_objective_sees_kept_features_of_clean_images(tmp_path: Path) -> None:
    found: list[tuple[Tensor, Tensor]] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            rows = [pl_module.kept.rows[index] for index in batch["clean_index"].tolist()]
            found.append((pl_module.looked_at(batch)["clean"], pl_module.kept.values[rows].float()))

    model = module()
    seen: list[int] = []
    model.vae.get_submodule("backbone").register_forward_hook(lambda layer, args, output: seen.append(len(output)))
    trainer(tmp_path, Look(), max_epochs=2, limit_val_batches=0).fit(model, datamodule=defects())
    assert len(found) == 2 * 3
    assert all(torch.equal(clean, expected) for clean, expected in found)
    assert sum(seen) == 12  # each image and copy once


@pytest.mark.parametrize("network", [GRID, PIXELS])
def test_training_validation_and_test_run(network: dict[str, Any], tmp_path: Path) -> None:
    model = module(network, layer="input" if network is GRID else "conv2")
    before = {name: part.clone() for name, part in model.vae.encoder.named_parameters()}
    data = defects()
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, datamodule=data)
    assert {"val/defect", "val/reconstruction", "val/kl"} <= set(run.callback_metrics)
    changed = [name for name, part in model.vae.encoder.named_parameters() if not torch.equal(before[name], part)]
    assert "conv1.weight" in changed
    run.validate(model, datamodule=data, verbose=False)
    run.test(model, datamodule=data, verbose=False)
    assert bool(run.callback_metrics["test/defect"].isfinite())


def test_validation_counts_images_with_defects(tmp_path: Path) -> None:
    """Half of the validation images have one; the defect term of the normal ones alone would lack a half."""
    data, model = defects(val=2, eval_batch_size=4), module()
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, datamodule=data)
    found = run.callback_metrics["val/defect"].item()
    batch = data.val_set.__getitems__([0, 1, 2, 3])
    output = model.vae(batch["image"], keep=("input",), sample=False)
    expected = model.objective(batch["image"], output, 0, model.looked_at(batch)).parts["defect"]
    assert found == pytest.approx(expected.item(), rel=1e-3)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = module(), module(), module()
    trainer(tmp_path, max_epochs=2).fit(whole, datamodule=defects())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(first, datamodule=defects())
    run.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = tmp_path / "one.ckpt"
    trainer(tmp_path, max_epochs=2).fit(second, datamodule=defects(), ckpt_path=checkpoint, weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_objectives_and_data_that_do_not_fit_are_told(tmp_path: Path) -> None:
    plain = FeatureVAEModule(network=GRID, objective={"name": "vae"})
    with pytest.raises(VaexError, match="which objective=vae would learn as normal; set data"):
        trainer(tmp_path).fit(plain, datamodule=defects())
    with pytest.raises(VaexError, match="learns from images with defects; set data"):
        trainer(tmp_path).fit(module(), datamodule=defects(pasted=0))
