"""Training of feature VAEs: what is fitted before it, what is kept, and what its checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import vaex
from vaex.errors import VaexError
from vaex.modules import FeatureVAEModule, VAEModule, module_class
from vaex.modules import feature_vae as source
from vaex.types import Batch

SMALL = {"shape": [1, 32, 32], "blocks": [0], "size": 32, "grid": 8}
VECTOR: dict[str, Any] = {"name": "feature_vae", "latents": 3, "widths": [8, 6, 4], **SMALL}
GRID: dict[str, Any] = {"name": "feature_grid", "latents": 16, "hidden": 5, "decoder_hidden": 6, "rank": 4, **SMALL}


class Images(Dataset[Batch]):
    """Noise images whose index in a batch is ``first`` + 10 times the position; every fifth is anomalous."""

    def __init__(self, count: int, seed: int, first: int = 1000, step: int = 10) -> None:
        self.images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        self.labels = torch.arange(count) % 5 // 4
        self.index = first + step * torch.arange(count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        return {"image": self.images[indices], "label": self.labels[indices], "index": self.index[indices]}


class Data(pl.LightningDataModule):
    """Ten images to train with, of which eight are normal; four to validate, with indices out of training."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.train_set, self.val_set = Images(10, 0, **options), Images(4, 1)

    def _loader(self, dataset: Images) -> DataLoader[Any]:
        return DataLoader(dataset, batch_size=4, collate_fn=lambda batch: batch)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_set)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val_set)


def module(network: dict[str, Any] = VECTOR, **options: Any) -> FeatureVAEModule:
    return FeatureVAEModule(network=network, objective={"name": "vae"}, **options)


def train(folder: Path, model: VAEModule, data: Any = None, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "logger": False, "enable_checkpointing": bool(callbacks), **options},
    )
    trainer.fit(model, datamodule=data or Data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def normal(data: Data) -> Tensor:
    return data.train_set.images[data.train_set.labels == 0]


def watch(model: FeatureVAEModule) -> list[int]:
    """Return the sizes of the batches that the backbone sees from now on."""
    seen: list[int] = []
    model.vae.backbone.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    return seen


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_the_whitening_is_that_of_the_normal_training_images(network: dict[str, Any], tmp_path: Path) -> None:
    data, model, expected = Data(), module(network), module(network)
    train(tmp_path, model, data)
    raw = expected.vae.raw_features(normal(data)).half().float()
    expected.vae.fit_whitening([raw])
    torch.testing.assert_close(model.vae.whitening.state_dict(), expected.vae.whitening.state_dict())
    if expected.vae.position is not None:
        expected.vae.fit_position(expected.vae.whitening(raw))
        found = model.vae.features(normal(data)).square().sum(1)
        torch.testing.assert_close(found, expected.vae.features(normal(data)).square().sum(1), rtol=0.01, atol=0.05)
    assert model.vae.ready
    assert model.kept is None  # let go of after the training


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_kept_features_are_those_of_the_images(network: dict[str, Any], tmp_path: Path) -> None:
    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            found = pl_module.kept.of({"index": batch["index"][:4][batch["label"] == 0]})
            expected = pl_module.vae.features(batch["image"][batch["label"] == 0])
            torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=2e-2)  # in half precision

    train(tmp_path, module(network), None, Look())


def test_the_backbone_runs_once_for_each_normal_image(tmp_path: Path) -> None:
    data = Data()
    data.train_set.labels[:] = 0
    model = module()
    seen = watch(model)
    train(tmp_path, model, data, max_epochs=3, limit_val_batches=0)
    assert sum(seen) == 10
    data.train_set.labels[9] = 1  # an anomalous image is not kept: its batch of two is computed in each epoch
    seen = watch(model := module())
    train(tmp_path, model, data, max_epochs=3, limit_val_batches=0)
    assert sum(seen) == 9 + 3 * 2


@pytest.mark.parametrize("reason", ["augmented", "counts epochs", "large", "repeated index"])
def test_features_are_not_kept_where_they_may_not_be(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(step=0) if reason == "repeated index" else Data()
    data.train_set.labels[:] = 0
    if reason == "augmented":
        data.augmented = True  # type: ignore[attr-defined]
    if reason == "counts epochs":
        data.train_set.counts_epochs = True  # type: ignore[attr-defined]
    if reason == "large":
        monkeypatch.setattr(source, "CACHE_BYTES", 2 * 16 * 64 * 9)  # nine images
    for network in (VECTOR, GRID):
        seen = watch(model := module(network))
        train(tmp_path, model, data, max_epochs=2, limit_val_batches=0)
        again = 10 if network is GRID and reason != "repeated index" else 0  # the whitening at each position
        assert sum(seen) == 10 + again + 2 * 10
        assert model.vae.ready


def test_kept_features_change_no_loss_beyond_their_precision(tmp_path: Path) -> None:
    def losses(data: Data) -> list[float]:
        found: list[float] = []

        class Record(pl.Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
                found.append(outputs["loss"].item())

        train(tmp_path, module(), data, Record())
        return found

    plain = Data()
    plain.augmented = True  # type: ignore[attr-defined]
    assert losses(Data()) == pytest.approx(losses(plain), rel=1e-3)


def test_a_term_of_activations_takes_kept_features(tmp_path: Path) -> None:
    model = FeatureVAEModule(network=VECTOR, objective={"name": "vae", "attention": {"weight": 1.0, "layer": "conv2"}})
    seen = watch(model)
    data = Data()
    data.train_set.labels[:] = 0
    before = model.vae.encoder.get_submodule("conv1").weight.clone()  # type: ignore[operator]
    train(tmp_path, model, data, max_epochs=1, limit_val_batches=0)
    assert sum(seen) == 10
    assert not torch.equal(before, model.vae.encoder.get_submodule("conv1").weight)  # type: ignore[arg-type]


# Checkpoints


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_a_checkpoint_rebuilds_the_model_without_the_backbone(network: dict[str, Any], tmp_path: Path) -> None:
    model = module(network, run={"name": "small"})
    file = tmp_path / "small.ckpt"
    train(tmp_path, model, max_epochs=1, limit_val_batches=0).save_checkpoint(file)
    names = torch.load(file, weights_only=True)["state_dict"]
    assert [name for name in names if "backbone" in name] == ["vae.backbone.fingerprint"]
    loaded, images = vaex.load(file), normal(Data())
    found, expected = loaded(images), model.vae.eval()(images)
    torch.testing.assert_close(found.likelihood.log_prob(images), expected.likelihood.log_prob(images))
    torch.testing.assert_close(found.posterior.mean, expected.posterior.mean)


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_a_resumed_run_ends_as_an_uninterrupted_one(network: dict[str, Any], tmp_path: Path) -> None:
    whole, first, second = module(network), module(network), module(network)
    train(tmp_path, whole, limit_val_batches=0)
    checkpoint = tmp_path / "first.ckpt"
    train(tmp_path, first, max_epochs=1, limit_val_batches=0).save_checkpoint(checkpoint)
    train(tmp_path, second, ckpt_path=checkpoint, limit_val_batches=0)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_a_resumed_run_fits_nothing_anew(tmp_path: Path) -> None:
    checkpoint, other = tmp_path / "first.ckpt", Data()
    first, second = module(), module()
    train(tmp_path, first, max_epochs=1, limit_val_batches=0).save_checkpoint(checkpoint)
    other.train_set.images[8] = 0.5  # fitted to these images the whitening would be another one
    train(tmp_path, second, other, ckpt_path=checkpoint, limit_val_batches=0)
    for name, value in first.vae.whitening.state_dict().items():
        assert torch.equal(second.vae.whitening.state_dict()[name], value), name


def test_averaged_weights_keep_the_fitted_state(tmp_path: Path) -> None:
    model = module()
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/loss", filename="best")
    train(tmp_path, model, None, EMAWeightAveraging(decay=0.9), best, max_epochs=2)
    loaded = vaex.load(tmp_path / "best.ckpt")
    assert loaded.ready
    expected = module()
    expected.vae.fit_whitening([expected.vae.raw_features(normal(Data())).half().float()])
    found = loaded.get_submodule("whitening").state_dict()
    torch.testing.assert_close(found, expected.vae.whitening.state_dict())


# What is told


def test_the_module_of_a_network() -> None:
    assert module_class(VECTOR) is module_class(GRID) is FeatureVAEModule
    assert module_class({"name": "conv"}) is VAEModule


def test_networks_of_pixels_are_told(tmp_path: Path) -> None:
    wrong = FeatureVAEModule(network={"name": "conv", "shape": [1, 32, 32], "depth": 2})
    with pytest.raises(VaexError, match="trains feature VAEs, but network=conv is of pixels"):
        train(tmp_path, wrong)


def test_a_trainer_without_a_data_module(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    loader = Data().train_dataloader()
    with pytest.raises(VaexError, match=r"datamodule=\.\.\.\), or module\.vae\.fit_whitening"):
        trainer.fit(module(), loader)
    model = module()
    model.vae.fit_whitening([model.vae.raw_features(normal(Data()))])
    bias = model.vae.decoder.get_parameter("bias")
    before = bias.detach().clone()
    trainer.fit(model, loader)
    assert not torch.equal(bias, before)


def test_data_without_normal_images_or_without_images_are_told(tmp_path: Path) -> None:
    data = Data()
    data.train_set.labels[:] = 1
    with pytest.raises(VaexError, match="Data has no normal training images"):
        train(tmp_path, module(), data)

    class Labels(Images):
        def __getitems__(self, indices: list[int]) -> Batch:
            return {"label": self.labels[indices]}

    data.train_set = Labels(4, 0)
    with pytest.raises(VaexError, match="batches with an image, which Data does not give"):
        train(tmp_path, module(), data)


def test_data_sets_that_give_single_images(tmp_path: Path) -> None:
    class Single(Dataset[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, at: int) -> dict[str, Any]:
            return {"image": Images(6, 0).images[at], "index": at}

    data = Data()
    data.train_set = Single()  # type: ignore[assignment]
    data._loader = lambda dataset: DataLoader(dataset, batch_size=3)  # type: ignore[method-assign]
    seen = watch(model := module())
    train(tmp_path, model, data, max_epochs=2, limit_val_batches=0)
    assert sum(seen) == 6


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_more_draws_of_iwae_take_the_features_that_are_there(network: dict[str, Any], tmp_path: Path) -> None:
    data = Data()
    data.train_set.labels[:] = 0
    model = FeatureVAEModule(network=network, objective={"name": "iwae", "samples": 4})
    seen = watch(model)
    run = train(tmp_path, model, data, limit_val_batches=0)
    assert sum(seen) == 10  # the kept features, whatever the number of draws
    assert bool(run.callback_metrics["train/iwae"].isfinite())
