"""The attention callback in real runs on the CPU: what it measures, of how many images, the same in every loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import vaex
from vaex.callbacks import Attention
from vaex.data import Sprites
from vaex.modules import VAEModule

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
GRID = {"shape": 2, "scale": 2, "orientation": 1, "x": 4, "y": 4}
MEASURES = ("overlap", "entropy", "active_latents", "pointing_game", "energy_inside")


def sprites() -> Sprites:
    return Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8)


def module() -> VAEModule:
    return VAEModule(NETWORK, objective={"name": "beta_vae", "beta": 0.0}, optim={"name": "adam", "lr": 0.01})


def sprites_val() -> DataLoader[Any]:
    data = sprites()
    data.setup("fit")
    return data.val_dataloader()


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


class Dictionaries(Dataset[Any]):
    """Rows of a mapping of tensors."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def by_hand(maps: Tensor, kl: Tensor, mask: Tensor) -> dict[str, float]:
    """The measures of maps (N, T, H, W) that are not negative, map by map."""
    active = [i for i in range(maps.shape[1]) if float(kl[:, i].mean()) > 0.01]
    chosen = active if len(active) > 1 else range(maps.shape[1])
    overlaps, entropies, hits, energies = [], [], [], []
    for image, inside in zip(maps.double(), mask[:, 0], strict=True):
        for a, b in ((image[i], image[j]) for i in chosen for j in chosen if i < j):
            overlaps.append(2 * float(torch.minimum(a, b).sum()) / max(float((a + b).sum()), 1e-30))
        for one in image:
            total = float(one.sum())
            share = one.flatten() / max(total, 1e-30)
            spread = -(share * share.clamp(min=1e-300).log()).sum() / np.log(one.numel())
            entropies.append(float(spread) if total > 0 else 1.0)
            hits.append(float(total > 0 and inside.flatten()[int(one.argmax())] > 0.5))
            energies.append(float((one * inside).sum()) / total if total > 0 else 0.0)
    columns = (overlaps, entropies, [len(active)], hits, energies)
    return dict(zip(MEASURES, (float(np.mean(column)) for column in columns), strict=True))


@pytest.mark.parametrize("images_per_batch", [3, 16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_measures_in_validation_and_test_are_those_by_hand(images_per_batch: int, scale: float, tmp_path: Path) -> None:
    """With no, some or all latents active: ``scale`` enlarges the codes."""
    model, data = module(), sprites()
    with torch.no_grad():
        model.vae.encoder.mean.weight *= scale
        model.vae.encoder.mean.bias.zero_()
        model.vae.encoder.logvar.weight.zero_()
        model.vae.encoder.logvar.bias.zero_()
        if scale == 1:
            model.vae.encoder.mean.weight[1:] *= 0.001  # leaves one active latent
            model.vae.encoder.mean.bias[0] = 3
    data.batch_size = data.eval_batch_size = 5
    run = trainer(tmp_path, Recorder("vae", "relu2", images_per_batch=images_per_batch, rectify="none"))
    for stage, validate in (("val", run.validate), ("test", run.test)):
        logged = validate(model, datamodule=data, verbose=False)[0]
        loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
        parts = []
        for batch in loader:
            count = images_per_batch if stage == "val" else None
            found = vaex.explain(model.vae, batch["image"][:count], "relu2", rectify="none")
            parts.append((found.maps.clamp(min=0), found.kl, batch["mask"][:count]))
        maps, kl, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        assert len(maps) == (8 if stage == "test" or images_per_batch == 16 else 6)
        expected = by_hand(maps, kl, mask)
        assert expected["active_latents"] == {0.0: 0, 1.0: 1, 300.0: 3}[scale]
        assert {name: logged[f"attention/{stage}/{name}"] for name in MEASURES} == pytest.approx(expected, rel=1e-4)


def test_every_validation_logs_all_measures_from_the_first_on(tmp_path: Path) -> None:
    """An untrained VAE has no active latent, and yet a curve of the overlap must begin."""
    seen: list[dict[str, float]] = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    run = trainer(tmp_path, Attention("vae"), Watch(), max_epochs=3)
    run.fit(module(), datamodule=sprites())
    assert len(seen) == 4  # with the sanity check
    for values in seen:
        assert {f"attention/val/{name}" for name in MEASURES} <= set(values)
        assert all(0 <= values[f"attention/val/{name}"] <= (3 if name == "active_latents" else 1) for name in MEASURES)
    assert all(0 < values["throughput/attention_share"] < 1 for values in seen[1:])


def test_a_monitor_may_watch_the_overlap(tmp_path: Path) -> None:
    stop = pl.callbacks.EarlyStopping("attention/val/overlap", patience=0)
    best = pl.callbacks.ModelCheckpoint(tmp_path / "best", monitor="attention/val/entropy")
    trainer(tmp_path, Attention("vae"), stop, best, enable_checkpointing=True).fit(module(), datamodule=sprites())
    assert list((tmp_path / "best").glob("*.ckpt"))


@pytest.mark.parametrize("total", ["sum", "total_kl"])
def test_one_map_has_no_overlap(total: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, Attention("vae", target=total))
    logged = run.validate(module(), datamodule=sprites(), verbose=False)[0]
    assert "attention/val/overlap" not in logged
    assert 0 <= logged["attention/val/entropy"] <= 1
    assert (tmp_path / "figures" / "attention_val.png").is_file()


def test_labels_give_the_auroc_of_every_score(tmp_path: Path) -> None:
    model, generator = module(), torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 32, 32, generator=generator)
    labels = (torch.rand(20, generator=generator) > 0.6).long()
    loader: DataLoader[Any] = DataLoader(Dictionaries(image=images, label=labels), batch_size=7)
    logged = trainer(tmp_path, Attention("vae", images_per_batch=2)).test(model, loader, verbose=False)[0]
    for name in ("reconstruction", "kl", "attention"):
        scores = vaex.explain(model.vae, images, score=name).score.double()
        expected = roc_auc_score(labels, scores), average_precision_score(labels, scores)
        found = [logged[f"localization/test/image_{kind}_{name}"] for kind in ("auroc", "ap")]
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_score_that_decides_is_measured_though_the_list_does_not_name_it(tmp_path: Path) -> None:
    model, generator = module(), torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 1, 32, 32, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0])
    loader: DataLoader[Any] = DataLoader(Dictionaries(image=images, label=labels), batch_size=6)

    def measured(**options: Any) -> dict[str, float]:
        logged = trainer(tmp_path, Attention("vae", **options)).test(model, loader, verbose=False)[0]
        return {key[len("localization/test/image_auroc_") :]: value for key, value in logged.items() if "auroc" in key}

    chosen = measured(score={"name": "reconstruction", "label": "error"}, scores=["kl"])
    expected = roc_auc_score(labels, vaex.explain(model.vae, images, score="reconstruction").score.double())
    assert set(chosen) == {"error", "kl"}
    assert chosen["error"] == pytest.approx(expected, abs=1e-6)
    assert set(measured(score="kl", scores=["kl", "reconstruction"])) == {"kl", "reconstruction"}
    smooth = {"name": "reconstruction", "sigma": 3.0, "pool": "max"}  # the name alone stands for these options
    expected = roc_auc_score(labels, vaex.explain(model.vae, images, score=smooth).score.double())
    assert measured(score=smooth, scores=["reconstruction"]) == pytest.approx({"reconstruction": expected}, abs=1e-6)
    assert measured(score="kl", scores=[]) == {}


def test_every_run_measures_anew(tmp_path: Path) -> None:
    run, model = trainer(tmp_path, Attention("vae")), module()
    batches = [Dictionaries(image=torch.rand(6, 1, 32, 32), label=torch.tensor([0, 1] * 3)) for _ in range(2)]
    loaders: list[DataLoader[Any]] = [DataLoader(data, batch_size=6) for data in batches]
    first, other, again = (run.test(model, loaders[i], verbose=False)[0] for i in (0, 1, 0))
    assert first == again
    assert first["localization/test/image_ap_attention"] != other["localization/test/image_ap_attention"]


def test_a_prior_that_does_not_factorise_names_no_active_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module()
    monkeypatch.setattr(model.vae.prior, "kl", lambda posterior, z: posterior.mean.square().sum(1, keepdim=True) + 1)
    logged = trainer(tmp_path, Attention("vae")).validate(model, datamodule=sprites(), verbose=False)[0]
    assert "attention/val/active_latents" not in logged
    assert "attention/val/overlap" in logged
    assert (tmp_path / "figures" / "attention_val.png").is_file()


def test_images_per_batch_is_obeyed(tmp_path: Path) -> None:
    watch = Recorder("vae", images_per_batch=3, figure_images=2)
    run = trainer(tmp_path, watch, num_sanity_val_steps=0, max_epochs=1)
    run.fit(module(), datamodule=sprites())
    assert [count for stage, count in watch.counts if "VALID" in stage.upper()] == [3, 2]
    watch.counts.clear()
    run.test(module(), datamodule=sprites(), verbose=False)
    assert [count for _, count in watch.counts] == [8, 2]


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"num_sanity_val_steps": 2, "max_epochs": 1}])
def test_short_runs(options: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, Attention("vae"), **options)
    run.fit(module(), datamodule=sprites())
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["attention_val_epoch0000.png"]


def test_parity_of_all_loops(tmp_path: Path) -> None:
    model, image = VAEModule(NETWORK | {"norm": "batch"}), next(iter(sprites_val()))["image"][:1]
    expected = vaex.explain(model.vae, image)
    found = []

    class Peek(Attention):
        def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
            found.append(self.explain(pl_module, batch["image"] * 1))

        def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_validation_batch_end(*args, **kwargs)
            found.append(self.explain(args[1], args[3]["image"]))

        def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_test_batch_end(*args, **kwargs)
            found.append(self.explain(args[1], args[3]["image"]))

    run = trainer(tmp_path, Peek("vae"))
    loader: DataLoader[Any] = DataLoader(Dictionaries(image=image))
    run.validate(model, loader, verbose=False)
    run.test(model, loader, verbose=False)
    run.predict(model, loader)
    assert len(found) == 3
    for one in found:
        for a, b in zip(one, expected, strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)
