"""Calibration at the end of `vaex train`, and again by `vaex calibrate`, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vaex
from tests.commands.test_train import process, same, train, weights
from vaex import detectors
from vaex.attention import latent_attention
from vaex.cli import main
from vaex.commands import calibrate
from vaex.data import Sprites


def content(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def calibration(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = content(file)["calibration"]
    return found


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    parts = ("codes", "maps", "normal_scores", "normal_pixels")
    rest = [{key: value for key, value in one.items() if key not in parts} for one in (a, b)]
    return rest[0] == rest[1] and all(
        torch.allclose(a[part][name], b[part][name], rtol=1e-4, atol=1e-7) for part in parts for name in a[part]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(folder, "trainer.max_epochs=1", "attention.layer=conv2", "score=deviation") == 0
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def normal_images(trained: Path) -> torch.Tensor:
    options = dict(vaex.load(trained).config["run"]["data"])
    options.pop("_target_"), options.pop("shape")
    data = Sprites(**options)
    data.setup("fit")
    return data.train_set.__getitems__(list(range(len(data.train_set))))["image"]


def test_training_ends_with_the_calibration_of_the_best_weights(trained: Path) -> None:
    model, images = vaex.load(trained), normal_images(trained)
    found = calibration(trained / "checkpoints" / "best.ckpt")
    assert found["count"] == len(images) == 112
    with torch.no_grad():
        posterior = model.encode(images)
    torch.testing.assert_close(found["codes"]["mean"], posterior.mean.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["codes"]["covariance"], torch.cov(posterior.mean.T), rtol=1e-3, atol=1e-8)
    maps = latent_attention(model, images, "conv2", size="layer")
    torch.testing.assert_close(found["maps"]["mean"], maps.mean(0), rtol=1e-3, atol=1e-7)
    assert found["attention"]["layer"] == "conv2"
    assert "calibration" not in content(trained / "checkpoints" / "last.ckpt")


def test_a_score_that_needs_it_is_tested(trained: Path, tmp_path: Path) -> None:
    """During training its pictures are those of the attention; nothing is left undone."""
    assert (trained / "figures" / "attention_val_epoch0000.png").is_file()
    assert (trained / "figures" / "attention_test.png").is_file()
    metrics = json.loads((trained / "metrics.json").read_text())["test"]
    assert main(["evaluate", f"ckpt={trained}", f"hydra.run.dir={tmp_path}", "callbacks=[attention]"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["test"] == pytest.approx(metrics, rel=1e-5)


def test_again_by_command(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "checkpoints" / "best.ckpt"
    before = content(file)
    assert main(["calibrate", f"ckpt={copied}", "batch_size=50"]) == 0
    assert "112 normal images" in capsys.readouterr().out
    after = content(file)
    assert equal(before["calibration"], after["calibration"])
    assert list(before) == list(after)
    assert same(before["state_dict"], after["state_dict"])
    assert before["global_step"] == after["global_step"]
    assert len(after["optimizer_states"]) == 1
    arguments = ["attention.target=kl", "calibration_images=20", "seed=0"]
    assert main(["calibrate", f"ckpt={copied}", *arguments]) == 0
    assert calibration(file)["attention"]["target"] == "kl"
    assert calibration(file)["count"] == 20


def decisions(ckpt: Path, out: Path, *arguments: str) -> dict[str, Any]:
    assert main(["explain", f"ckpt={ckpt}", f"out={out}", "pictures=false", *arguments]) == 0
    found: dict[str, Any] = json.loads((out / "regions.json").read_text())
    return found


def test_every_score_of_the_run_decides_by_its_own_threshold(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = calibration(trained / "checkpoints" / "best.ckpt")
    assert set(kept["normal_scores"]) == {"reconstruction", "kl", "attention", "deviation", "mahalanobis"}
    assert kept["score"]["name"] == "deviation"
    model = vaex.load(trained)
    data = Sprites(**{k: v for k, v in model.config["run"]["data"].items() if k not in ("_target_", "shape")})
    data.setup("fit")
    images = data.val_set.__getitems__(list(range(len(data.val_set))))["image"]
    with torch.no_grad():
        error = (images - model(images).reconstruction).square().flatten(1).sum(1)
    expected = float(error.sort().values[-1])  # 8 images are too few for 0.05: the highest
    found = decisions(trained, tmp_path / "a", "score=reconstruction")
    assert found["threshold"] == pytest.approx(expected, rel=1e-4)
    assert (found["score"], found["normal_images"]) == ("reconstruction", len(images))
    assert decisions(trained, tmp_path / "b")["score"] == "deviation"
    assert (
        main(
            [
                "export",
                f"ckpt={trained}",
                "what=score",
                "score=reconstruction",
                f"out={tmp_path / 'a.pt2'}",
                "format=pt2",
            ]
        )
        == 0
    )
    assert f"threshold {expected:.4g} for false_alarm_rate=0.05 by {len(images)}" in capsys.readouterr().out


def test_the_score_last_calibrated_is_the_one_of_the_checkpoint(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its options; what is typed wins, and other scores keep what they had."""
    file = copied / "checkpoints" / "best.ckpt"
    before = calibration(file)
    arguments = ["score=reconstruction", "score.pool=max", "score.sigma=2", "metrics.scores=[]"]
    assert main(["calibrate", f"ckpt={copied}", *arguments, "data.val=30"]) == 0
    said = capsys.readouterr().out
    kept = calibration(file)
    highest = float(kept["normal_scores"]["reconstruction"].sort().values[-1])
    assert f"Anomalous is an image whose reconstruction score is above {highest:.4g}." in said
    assert "by 30 held-out normal images the true rate lies, with 95 % confidence, between" in said
    assert set(kept["normal_scores"]) == set(before["normal_scores"])
    assert len(kept["normal_scores"]["reconstruction"]) == 30
    assert said.index("reconstruction score") < said.index("deviation score")
    own = decisions(copied, tmp_path / "own")
    assert (own["score"], own["threshold"]) == ("reconstruction", pytest.approx(highest))
    capsys.readouterr()
    assert main(["explain", f"ckpt={copied}", f"out={tmp_path / 'typed'}", "pictures=false", "score.pool=sum"]) == 0
    assert "score.pool=max and not sum; give the same" in capsys.readouterr().out
    assert decisions(copied, tmp_path / "other", "score=mahalanobis")["normal_images"] == 30  # codes were fitted anew
    assert main(["calibrate", f"ckpt={copied}", "metrics.scores=[]"]) == 0  # its own, with its options
    assert calibration(file)["normal_options"]["reconstruction"]["sigma"] == 2.0


def test_too_few_held_out_images_are_told(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", f"ckpt={copied}", "score=reconstruction", "metrics.scores=[]"]
    assert main([*arguments, "data.val=3"]) == 0
    assert (
        "Too few normal images for false_alarm_rate=0.05: 3 were held out and it takes 19." in capsys.readouterr().out
    )


def test_what_cannot_be_scored_leaves_the_checkpoint(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "checkpoints" / "best.ckpt"
    before = file.read_bytes()
    assert main(["calibrate", f"ckpt={copied}", "score=patchcore"]) == 1
    assert (
        "score=patchcore looks at image features, which this model has not; train a feature VAE"
        in capsys.readouterr().err
    )
    assert file.read_bytes() == before


def test_a_checkpoint_of_before_is_calibrated_on(copied: Path, tmp_path: Path) -> None:
    """It kept the scores of the deciding one alone, and not which that was."""
    file = copied / "checkpoints" / "best.ckpt"
    old = content(file)
    for key in ("normal_scores", "normal_pixels", "normal_options"):
        old["calibration"][key] = {"deviation": old["calibration"][key]["deviation"]}
    del old["calibration"]["score"]
    torch.save(old, file)
    assert decisions(copied, tmp_path / "old")["score"] == "deviation"
    assert main(["calibrate", f"ckpt={copied}", "score=reconstruction", "metrics.scores=[]"]) == 0
    assert set(calibration(file)["normal_scores"]) == {"reconstruction", "deviation"}
    assert decisions(copied, tmp_path / "new")["score"] == "reconstruction"


def test_held_out_images_are_there_for_every_pass(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that stand on others are fitted behind them, to the same images."""
    seen: list[int] = []

    def passes(model: Any, scores: Any, batches: Any, held_out: Any, *rest: Any, **options: Any) -> dict[str, Any]:
        seen.extend(sum(len(images) for images in held_out.batches) for _ in range(2))
        return {}

    monkeypatch.setattr(detectors, "fit_detectors", passes)
    assert main(["calibrate", f"ckpt={copied}"]) == 0
    assert seen[0] == seen[1] > 0


def test_a_copy_and_other_data(copied: Path, tmp_path: Path) -> None:
    file, out = copied / "checkpoints" / "best.ckpt", tmp_path / "out.ckpt"
    before = file.read_bytes()
    grid = "data.grid={shape: 3, scale: 2, orientation: 1, x: 4, y: 4}"
    data = ["data=sprites", "data.size=32", grid, "data.val=8", "data.test=8"]
    assert main(["calibrate", f"ckpt={copied}", f"out={out}", *data]) == 0
    assert file.read_bytes() == before
    assert calibration(out)["count"] == 80


def test_a_folder_of_today_is_read_as_the_images_of_training(copied: Path, tmp_path: Path) -> None:
    """Size and channels are the model's; half of the images is learnt from, the other half gives the threshold."""
    (tmp_path / "good").mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "good" / f"{i}.png")
    today = ["data=folder", f"data.normal_dir={tmp_path / 'good'}", "data.test_fraction=0", "data.val_fraction=0.5"]
    assert main(["calibrate", f"ckpt={copied}", *today]) == 0
    found = calibration(copied / "checkpoints" / "best.ckpt")
    assert found["count"] == 5
    assert {len(scores) for scores in found["normal_scores"].values() if scores.ndim == 1} == {5}
    assert main(["calibrate", f"ckpt={copied}", *today, "data.size=64"]) == 1  # what is typed is not changed


@pytest.mark.slow
def test_a_run_continues_with_a_calibrated_checkpoint(copied: Path, tmp_path: Path) -> None:
    assert main(["train", f"resume={copied}", "trainer.max_epochs=2", "calibration_images=50"]) == 0
    assert calibration(copied / "checkpoints" / "best.ckpt")["count"] == 50
    whole = tmp_path / "whole"
    assert train(whole, "trainer.max_epochs=2", "callbacks=[checkpoint]", "test=false", "calibrate=false") == 0
    assert same(weights(whole), weights(copied))
    assert "calibration" not in content(whole / "checkpoints" / "best.ckpt")


def test_the_last_checkpoint_stands_in_for_the_best(copied: Path) -> None:
    file = copied / "checkpoints" / "last.ckpt"
    (copied / "checkpoints" / "best.ckpt").unlink()
    assert main(["calibrate", f"ckpt={copied}"]) == 0
    assert calibration(file)["count"] == 112
    assert main(["train", f"resume={copied}", "test=false"]) == 0  # nothing is left to train


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["calibrate"], "Name a checkpoint"),
        (["calibrate", "ckpt=sprites"], "sprites.ckpt ships with vaex and is not rewritten"),
        (
            ["calibrate", "ckpt=sprites", "out=a.ckpt", "data.size=32"],
            "images of 1x32x32, but the model was trained on",
        ),
        (["calibrate", "ckpt=sprites", "out=a.ckpt", "batch_size=0"], "batch_size must be at least 1"),
        (["calibrate", "ckpt=sprites", "out=a.ckpt", "calibration_images=0"], "calibration_images must be at least 1"),
        (["calibrate", "ckpt=sprites", "out=a.ckpt", "attention.targt=kl"], "did you mean 'attention.target'"),
        (["train", "calibration_images=none"], "calibration_images must be at least 1"),
        (["train", "score=mahalanobis", "calibrate=false"], "score=mahalanobis needs a calibrated model"),
        (["calibrate", "ckpt=sprites", "out=a.ckpt", "score=padim"], "score=padim looks at image features, which this"),
        (
            ["calibrate", "ckpt=sprites", "out=a.ckpt", "false_alarm_rate=2"],
            "false_alarm_rate must be a number between",
        ),
        (["explain", "score=mahalanobis"], "not calibrated, so what is normal is unknown; run `vaex calibrate"),
    ],
)
def test_refusals(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_interrupt_leaves_the_checkpoint(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied / "checkpoints" / "best.ckpt"
    before = file.read_bytes()

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate.Shown, "__iter__", interrupted)
    assert main(["calibrate", f"ckpt={copied}"]) == 130
    assert capsys.readouterr().err == "vaex: interrupted.\n"
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.slow
def test_what_cannot_be_calibrated_does_not_cost_the_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(folder, "trainer.max_epochs=1", "calibration_images=1") == 0
    assert "not calibrated: Calibration needs at least 2 normal images, got 1" in capsys.readouterr().err
    assert "loss" in json.loads((folder / "metrics.json").read_text())["test"]
    assert "calibration" not in content(folder / "checkpoints" / "best.ckpt")


def test_without_a_checkpoint_the_scores_still_have_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, "trainer.max_epochs=1", "callbacks=[attention]", "score=mahalanobis") == 0
    assert (folder / "figures" / "attention_test.png").is_file()


@pytest.mark.slow
def test_of_two_processes_one_calibrates(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = process(folder, "trainer=ddp_cpu", "trainer.max_epochs=1", "score=mahalanobis")
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-3000:]
    file = folder / "checkpoints" / "best.ckpt"
    found = calibration(file)
    assert found["count"] == 112
    assert main(["calibrate", f"ckpt={folder}"]) == 0
    assert equal(found, calibration(file))
