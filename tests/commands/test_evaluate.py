"""`vaex evaluate`: the checkpoint alone is enough, and its config is the default."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.commands.test_train import train
from vaex import explain, load
from vaex.cli import main
from vaex.commands.evaluate import take_held_out
from vaex.data import Defects, Folder
from vaex.data.anomalies import KINDS
from vaex.errors import VaexError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(folder, "trainer.max_epochs=1", "attention.layer=conv2", "attention.target=kl") == 0
    return folder


def evaluate(folder: Path, *arguments: str) -> dict[str, float]:
    assert main(["evaluate", *arguments, f"hydra.run.dir={folder}", "callbacks=[attention]"]) == 0
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())["test"]
    return metrics


@pytest.mark.slow
def test_gives_what_training_ended_with(trained: Path, tmp_path: Path) -> None:
    expected = json.loads((trained / "metrics.json").read_text())["test"]
    assert evaluate(tmp_path / "a", f"ckpt={trained}") == pytest.approx(expected, rel=1e-5)


def test_needs_the_checkpoint_alone(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "moved.ckpt")
    expected = json.loads((trained / "metrics.json").read_text())["test"]
    assert evaluate(tmp_path / "a", f"ckpt={tmp_path / 'moved.ckpt'}") == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_one_key_of_the_stored_config_can_be_changed(trained: Path, tmp_path: Path) -> None:
    stored = evaluate(tmp_path / "a", f"ckpt={trained}")
    other = evaluate(tmp_path / "b", f"ckpt={trained}", "attention.target=mean")
    explicit = evaluate(tmp_path / "c", f"ckpt={trained}", "attention=grad_cam", "attention.layer=conv2")
    assert other["entropy"] != stored["entropy"]
    assert other["entropy"] == explicit["entropy"]
    assert other["loss"] == stored["loss"]


@pytest.mark.slow
def test_a_score_that_is_fitted_gives_way_to_attention_with_random_weights(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = evaluate(tmp_path / "a", f"ckpt={trained}", "random_weights=true", "score=attention")
    fitted = evaluate(tmp_path / "b", f"ckpt={trained}", "random_weights=true", "score=mahalanobis")
    assert fitted == pytest.approx(plain)
    assert "score=mahalanobis is fitted to normal images, which random weights are not" in capsys.readouterr().err


@pytest.mark.slow
def test_random_weights_are_those_that_training_started_from(trained: Path, tmp_path: Path) -> None:
    untrained = evaluate(tmp_path / "a", f"ckpt={trained}", "random_weights=true")
    assert untrained["loss"] > evaluate(tmp_path / "b", f"ckpt={trained}")["loss"]
    again = evaluate(tmp_path / "c", f"ckpt={trained}", "random_weights=true", "seed=7")
    assert again["loss"] != untrained["loss"]


def test_other_data_by_choice(trained: Path, tmp_path: Path) -> None:
    grid = "data.grid={shape: 2, scale: 2, orientation: 1, x: 6, y: 6}"
    other = evaluate(
        tmp_path / "a", f"ckpt={trained}", "data=sprites", "data.size=32", grid, "data.val=16", "data.test=32"
    )
    assert other["loss"] > 0


@pytest.mark.slow
def test_other_augmentation_by_choice(tmp_path: Path) -> None:
    """Corruption of the test images needs no other word: the data is the checkpoint's, the augmentation is not."""
    for number in range(10):
        (tmp_path / "photos of today").mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos of today" / f"{number}.png")
    data = ["data=folder", f"data.normal_dir={tmp_path / 'photos of today'}", "data.size=32", "data.batch_size=4"]
    small = ["network.width=4", "network.depth=2", "network.hidden=8", "network.latents=3", "logger=none"]
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    assert main(["train", *data, *small, "debug=fast", "callbacks=[checkpoint]", "calibrate=false", folder]) == 0
    own = evaluate(tmp_path / "a", f"ckpt={tmp_path / 'run'}", "logger=none")
    again = evaluate(tmp_path / "b", f"ckpt={tmp_path / 'run'}", "logger=none", "augmentation=none")
    other = evaluate(tmp_path / "c", f"ckpt={tmp_path / 'run'}", "logger=none", "augmentation=corrupt")
    assert own["loss"] == again["loss"]
    assert other["loss"] != own["loss"]


def test_a_damaged_checkpoint_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    for name, content in {"short": whole[: len(whole) // 2], "noise": b"x" * 500}.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        assert main(["evaluate", f"ckpt={tmp_path / name}.ckpt"]) == 1
        assert "cannot be read: it is cut short, damaged" in capsys.readouterr().err


def test_a_checkpoint_with_a_foreign_target_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["run"]["data"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'hit'}"}
    torch.save(content, tmp_path / "hostile.ckpt")
    assert main(["evaluate", f"ckpt={tmp_path / 'hostile.ckpt'}", f"hydra.run.dir={tmp_path / 'a'}"]) == 1
    assert "Unknown data module in the checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "hit").exists()


def test_held_out_images_are_judged_in_place_of_the_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The AUROC by scikit-learn of scores of the validation images and their pasted defects; no test image is read."""
    data = ["data=defects", "data.size=32", "data.train=12", "data.val=9", "data.test_good=1", "data.test_defects=1"]
    small = ["network.width=4", "network.depth=2", "network.hidden=8", "network.latents=3", "logger=none"]
    run, folder = tmp_path / "run", tmp_path / "held_out"
    train_it = ["train", *data, *small, "trainer.max_epochs=1", "callbacks=[checkpoint]", "calibrate=false"]
    assert main([*train_it, "test=false", "report=false", f"hydra.run.dir={run}"]) == 0
    chosen = ["callbacks=[attention]", "metrics.scores=[reconstruction]", "logger=none", "held_out=true"]
    assert main(["evaluate", f"ckpt={run}", *chosen, f"hydra.run.dir={folder}"]) == 0
    measured = json.loads((folder / "metrics.json").read_text())
    assert set(measured) == {"held_out"}

    module = Defects(size=32, train=12, val=9, test_good=1, test_defects=1, seed=0)
    module.setup()
    batch = module.val_set.__getitems__(list(range(len(module.val_set))))
    assert (len(batch["label"]), int(batch["label"].sum())) == (18, 9)
    scored = explain(load(run), batch["image"], score="reconstruction")
    expected = roc_auc_score(batch["label"].numpy(), scored.score.numpy())
    assert measured["held_out"]["image_auroc_reconstruction"] == pytest.approx(expected, abs=1e-6)
    marked = batch["mask"].flatten().numpy() > 0.5
    expected = roc_auc_score(marked, scored.score_map.flatten().numpy())
    assert measured["held_out"]["pixel_auroc_reconstruction"] == pytest.approx(expected, abs=1e-6)
    for kind in set(batch["kind"].tolist()) - {-1}:  # -1: normal
        own = (batch["kind"] == kind) | (batch["kind"] == -1)
        name = f"pixel_auroc_reconstruction/synthetic_{KINDS[kind]}"
        alone = roc_auc_score(batch["mask"][own].flatten().numpy() > 0.5, scored.score_map[own].flatten().numpy())
        assert measured["held_out"][name] == pytest.approx(alone, abs=1e-6)

    page = (folder / "report.html").read_text()
    assert "held-out ones, of many data sets normal images and copies of them with pasted defects: no test" in page
    assert "test_images=[N] of vaex explain shows others" in page
    capsys.readouterr()
    assert main(["table", f"runs={folder}", "stage=held_out", "columns=[pixel_auroc]", "format=csv"]) == 0
    assert f"{expected:.4f}" in capsys.readouterr().out


class Foreign(pl.LightningDataModule):
    """Not on the base of vaex."""


class OwnLoader(Defects):
    """Its test is not that of the base."""

    def test_dataloader(self) -> Any:
        return super().test_dataloader()


def test_held_out_images_of_a_foreign_module_are_refused() -> None:
    with pytest.raises(VaexError, match=r"needs a data module on the base of vaex\.data\.ImageDataModule, which For"):
        take_held_out(Foreign())
    own = OwnLoader(size=32, train=2, val=2)
    with pytest.raises(VaexError, match="OwnLoader has one of its own, which would show the test"):
        take_held_out(own)
    assert not own.held_out


def test_held_out_images_are_not_augmented_as_those_of_a_test(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    blur = {"name": "blur", "transforms": [{"name": "GaussianBlur", "p": 1.0}]}
    for split, refused in (("test", True), ("val", False), ("train", False)):
        data = Folder(normal_dir=str(tmp_path), size=32, augmentation={**blur, "split": split})
        with pytest.raises(VaexError, match="augmentation=blur is of test images") if refused else nullcontext():
            take_held_out(data)
        assert data.held_out is not refused
