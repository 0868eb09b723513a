"""A model of images in tiles: trained, calibrated by whole images, and its tiles those of `vaex explain`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import vaex
from vaex.build import read_checkpoint
from vaex.cli import main
from vaex.commands.inspection import inspection_of
from vaex.scores import score_named
from vaex.scores.thresholds import PIXEL_RATES, normal_state

QUICK = [
    "network.width=4",
    "network.depth=2",
    "network.hidden=8",
    "network.latents=2",
    "callbacks=[attention,checkpoint]",
]
CORNERS = [(y, x) for y in (0, 24, 28) for x in (0, 24, 48)]  # of tiles of 32 that share 8, in images of 80 x 60
SCORE = {"name": "reconstruction", "pool": "max"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 20 images in ``good``, 2 in ``bad`` with their masks, and the run in tiles."""
    place = tmp_path_factory.mktemp("tiles")
    for kind, count in (("good", 20), ("bad", 2)):
        (place / kind).mkdir()
        for i in range(count):
            pixels = np.random.default_rng([count, i]).integers(90, 130, (60, 80, 3), dtype=np.uint8)
            if kind == "bad":
                pixels[40:44, 60:70] = 255
            Image.fromarray(pixels).save(place / kind / f"{i:02d}.png")
    (place / "masks").mkdir()
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[40:44, 60:70] = 255
    for i in range(2):
        Image.fromarray(mask).save(place / "masks" / f"{i:02d}.png")
    folders = {"normal_dir": "good", "abnormal_dir": "bad", "mask_dir": "masks"}
    data = [f"data.{key}={place / name}" for key, name in folders.items()]
    data += ["data=folder", "data.tile=32", "data.overlap=8", "data.size=32", "data.val_fraction=0.6"]
    arguments = ["score=reconstruction", "score.pool=max", "trainer.max_epochs=1", f"hydra.run.dir={place / 'run'}"]
    assert main(["train", *data, *QUICK, *arguments]) == 0
    return place


def explain(place: Path, out: Path, *more: str) -> dict[str, dict[str, str]]:
    arguments = [f"ckpt={place / 'run'}", f"out={out}", "pictures=false"]
    more = more if any("images=" in argument for argument in more) else (*more, f"images={place / 'bad'}")
    assert main(["explain", *arguments, *more]) == 0
    with (out / "explain.csv").open(newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def score_of(model: Any, file: Path) -> float:
    """Return the highest score of the tiles of a file, cut by hand."""
    pixels = torch.from_numpy(np.asarray(Image.open(file)).transpose(2, 0, 1) / np.float32(255))
    tiles = torch.stack([pixels[:, y : y + 32, x : x + 32] for y, x in CORNERS])
    return float(vaex.explain(model, tiles, score=SCORE).score.max())


def calibration(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_checkpoint(file)["calibration"]
    return found


def test_thresholds_are_of_the_highest_tiles_of_whole_images(trained: Path) -> None:
    kept, model = calibration(trained / "run"), vaex.load(trained / "run")
    assert kept["tiles"] == {"tile": 32, "overlap": 8}
    assert kept["count"] % 9 == 0
    scores = sorted(kept["normal_scores"]["reconstruction"].float().tolist())
    every = [score_of(model, file) for file in sorted((trained / "good").iterdir())]
    assert len(scores) == 10  # of 20 images 4 are tested, and 0.6 of the others held out
    for score in scores:
        assert min(abs(score - other) for other in every) < 1e-3 * score


def draw_weak_defects(place: Path) -> None:
    """Draw 5 images of two kinds into ``weak`` with their masks: most of what they show scores like noise."""
    for number, (kind, y, x) in enumerate(
        (("cut", 2, 3), ("cut", 40, 60), ("hole", 10, 30), ("hole", 25, 25), ("hole", 50, 70))
    ):
        pixels = np.random.default_rng([5, number]).integers(90, 130, (60, 80, 3), dtype=np.uint8)
        pixels[y : y + 4, x : x + 4] -= np.uint8(3 * number)
        mask = np.zeros((60, 80), dtype=np.uint8)
        mask[y : y + 4, x : x + 4] = 255
        for folder, drawn in (("weak", pixels), ("weak_masks", mask)):
            (place / folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(place / folder / kind / f"{number}.png")


def test_image_measures_of_a_test_are_of_whole_images(trained: Path, tmp_path: Path) -> None:
    draw_weak_defects(tmp_path)
    weak = [f"data.abnormal_dir={tmp_path / 'weak'}", f"data.mask_dir={tmp_path / 'weak_masks'}"]
    arguments = [f"ckpt={trained / 'run'}", f"hydra.run.dir={tmp_path / 'run'}", "callbacks=[attention]"]
    assert main(["evaluate", *arguments, *weak, "metrics.scores=[reconstruction]"]) == 0
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    with np.load(tmp_path / "run" / "maps" / "report_test.npz") as kept:
        rows = json.loads(str(kept["about"]))["rows"]
    assert len(rows) == 9 * 9  # of 4 normal images and 5 others, each in 9 tiles, one image after the other
    scores, labels = (np.array([row[key] for row in rows]).reshape(9, 9) for key in ("score", "label"))
    spoilt: Any = labels.any(axis=1)
    kinds = np.array([row["kind"] for row in rows]).reshape(9, 9)
    model = vaex.load(trained / "run")
    files = sorted((tmp_path / "weak").rglob("*.png"))
    by_hand = sorted(score_of(model, file) for file in files)
    assert sorted(scores.max(1)[spoilt].tolist()) == pytest.approx(by_hand, rel=1e-3)
    expected: dict[str, Any] = {"": np.full(9, True)}
    expected |= {f"/{kind}": ~spoilt | (kinds == kind).any(axis=1) for kind in ("cut", "hole")}
    for end, chosen in expected.items():
        truth, highest = spoilt[chosen], scores.max(1)[chosen]
        assert measured[f"image_auroc_reconstruction{end}"] == pytest.approx(roc_auc_score(truth, highest))
        assert measured[f"image_ap_reconstruction{end}"] == pytest.approx(average_precision_score(truth, highest))
    assert measured["image_auroc"] == measured["image_auroc_reconstruction"]
    assert 0 < measured["image_auroc"] < 1
    assert measured["image_auroc"] != pytest.approx(roc_auc_score(labels.ravel(), scores.ravel()), abs=0.02)


def test_explain_cuts_as_the_training_did(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = explain(trained, tmp_path / "a")
    told = capsys.readouterr().out
    assert "Images are scored in tiles of 32 pixels that share 8, as the model saw them in training" in told
    assert "The threshold is one of whole images, of the highest of their tiles" in told
    assert "The rate is that of one tile" not in told
    model = vaex.load(trained / "run")
    for name, row in rows.items():
        assert float(row["score"]) == pytest.approx(score_of(model, trained / "bad" / name), rel=1e-3)
        assert row["decision"] == "anomalous"
    assert explain(trained, tmp_path / "b", "tile=32", "overlap=8") == rows
    assert json.loads((tmp_path / "a" / "regions.json").read_text())["normal_images"] == 10


@pytest.mark.slow
def test_other_tiles_have_no_threshold(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (typed, these) in enumerate(
        {"tile=null": "whole", "tile=16": "with tile=16 overlap=8", "overlap=4": "with tile=32 overlap=4"}.items()
    ):
        rows = explain(trained, tmp_path / str(number), typed)
        assert all("decision" not in row for row in rows.values())
        expected = f"thresholds are of images scored with tile=32 overlap=8, these are scored {these}; give tile=32"
        assert expected in capsys.readouterr().out


def test_images_of_the_test_set_are_tiles_already(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = explain(trained, tmp_path, "test_images=[0,1,2]")
    limit = json.loads((tmp_path / "regions.json").read_text())["threshold"]
    decisions = ["anomalous" if float(row["score"]) > limit else "ok" for row in rows.values()]
    assert [row["decision"] for row in rows.values()] == decisions
    told = capsys.readouterr().out
    assert "of the highest of their tiles; a single tile lies above less often." in told
    assert "Images are scored in tiles" not in told


def test_tiles_of_the_test_set_are_not_cut_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", f"ckpt={trained / 'run'}", f"out={tmp_path}", "test_images=[0]", "tile=16"]) == 1
    assert "test_images= are tiles of 32 pixels already (data.tile), which tile=16" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_calibrate_takes_tiles_and_says_so(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = calibration(trained / "run")
    out = tmp_path / "again.ckpt"
    assert main(["calibrate", f"ckpt={trained / 'run'}", f"out={out}"]) == 0
    told = capsys.readouterr().out
    assert f"{before['count']} tiles of normal images" in told
    assert "10 were held out" in told
    assert "The thresholds are those of whole images: of the highest of their tiles." in told
    again = calibration(out)["normal_scores"]["reconstruction"]
    torch.testing.assert_close(again, before["normal_scores"]["reconstruction"], rtol=1e-3, atol=1e-6)
    named = ["data=folder", f"data.normal_dir={trained / 'good'}", f"out={out}", "score=reconstruction"]
    for more, expected in (([], {"tile": 32, "overlap": 8}), (["data.tile=null"], None)):
        arguments = [*named, *more, "data.val_fraction=0.6", "metrics.scores=[]"]
        assert main(["calibrate", f"ckpt={trained / 'run'}", *arguments]) == 0
        assert calibration(out).get("tiles") == expected
        left = set(before["normal_scores"]) if expected else {"reconstruction"}  # none of other cuts
        assert set(calibration(out)["normal_scores"]) == left


def test_a_changed_folder_is_told_by_files(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["data=folder", f"data.normal_dir={trained / 'good'}", "data.seed=1", "data.val_fraction=0.6"]
    assert main(["calibrate", f"ckpt={trained / 'run'}", *named]) == 1
    assert "of the 10 images held out now" in capsys.readouterr().err


def test_scores_of_whole_images_are_compared_with_those_of_whole_images() -> None:
    scores = torch.linspace(1, 2, 39)
    pixels = scores[:, None] * torch.linspace(1, 0.1, len(PIXEL_RATES))
    given: dict[str, Any] = {"score": SCORE, "false_alarm_rate": 0.05, "pixel_rate": 0, "threshold": None}
    given |= {"pixel_threshold": None, "roi": None, "min_area": 0, "pictures": False, "overlap": 8}
    kept = normal_state(score_named(SCORE), scores, pixels)
    tiled = {**kept, "tiles": {"tile": 32, "overlap": 8}}
    for state, tile, comparable in ((kept, None, True), (kept, 32, False), (tiled, 32, True)):
        found = inspection_of(OmegaConf.create({**given, "tile": tile}), state, {})
        assert found.threshold is not None
        assert any("Drift" in sentence for sentence in found.warnings([1.0] * 200, 0)) is comparable
        assert ("The rate is that of one tile" in " ".join(found.sentences())) is (tile == 32 and state is kept)
    assert inspection_of(OmegaConf.create({**given, "tile": None}), tiled, {}).threshold is None
