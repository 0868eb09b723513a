"""`vaex export`: a checkpoint as one file, with the attention it was trained with or another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vaex
from vaex.build import read_checkpoint, slim_checkpoint
from vaex.cli import main
from vaex.commands.export import Decides, thresholds_of
from vaex.data.render import example_sprites
from vaex.errors import VaexError
from vaex.scores import score_named
from vaex.scores.thresholds import PIXEL_RATES, middle_of, normal_state

IMAGES = torch.from_numpy(example_sprites(3)).float()[:, None]


@pytest.mark.slow
def test_attention_as_the_checkpoint_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "maps.pt2"
    assert main(["export", "format=pt2", f"out={path}", "attention.latents=[2,0]"]) == 0
    told = capsys.readouterr().out
    assert "any number of images per call; outputs maps." in told
    assert "largest difference from the model:" in told
    model = vaex.load("sprites")
    stored = {**model.config["run"]["attention"], "latents": [2, 0]}
    found = torch.export.load(path).module()(IMAGES)
    torch.testing.assert_close(found["maps"], vaex.explain(model, IMAGES, **stored).maps, rtol=0, atol=1e-5)
    assert [file.name for file in path.parent.iterdir()] == ["maps.pt2"]


def test_score_of_pixels_with_a_threshold(tmp_path: Path) -> None:
    path = tmp_path / "score.pt2"
    model = vaex.load("sprites")
    expected = vaex.explain(model, IMAGES, score="reconstruction").score
    threshold = float(expected.sort().values[:2].mean())
    arguments = ["what=score", "score=reconstruction", "input=uint8", f"threshold={threshold}", "batch_size=3"]
    assert main(["export", "format=pt2", f"out={path}", *arguments]) == 0
    extra = {"vaex.json": ""}
    program = torch.export.load(path, extra_files=extra)
    found = program.module()((IMAGES * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    torch.testing.assert_close(found["score"], expected, rtol=1e-4, atol=1e-4)
    assert found["anomalous"].tolist() == (expected > threshold).tolist()
    told = json.loads(extra["vaex.json"])
    assert (told["batch_size"], told["score"], told["network"]) == ("3", "reconstruction", "conv")
    assert float(told["threshold"]) == pytest.approx(threshold)


def test_the_threshold_of_the_calibration_is_the_default() -> None:
    score, options = {"name": "kl"}, {"layer": "conv2"}
    state = normal_state(score_named(score), torch.arange(1.0, 100.0), torch.zeros(99, len(PIXEL_RATES)))
    calibration = {**state, "attention": options}
    assert thresholds_of(None, 0.05, calibration, score, options).threshold == 95  # of 100 images, 5 may lie above
    found = thresholds_of(None, 0.001, calibration, score, options)
    assert (found.threshold, found.scene) == (99, 0)
    assert "too few for this rate, which takes 999" in found.told
    tiled = thresholds_of(None, 0.05, {**calibration, "tiles": {"tile": 32, "overlap": 8}}, score, options)
    assert (tiled.threshold, tiled.scene) == (95, None)  # a tile is no scene
    assert "An image is anomalous when one of its tiles is." in tiled.told
    assert thresholds_of(4.0, 0.05, calibration, score, options) == Decides(4.0)
    for other in ({}, {"layer": "conv3"}):
        found = thresholds_of(None, 0.05, calibration if other else {}, score, other)
        assert (found.threshold, found.scene) == (None, None)
        assert "no output `anomalous`" in found.told
    with pytest.raises(VaexError, match="false_alarm_rate must be a number between 0 and 1"):
        thresholds_of(None, 2, calibration, score, options)


def test_an_image_unlike_all_normal_ones_is_the_program_s_as_it_is_explain_s(tmp_path: Path) -> None:
    """Its score is low, but half of its map lies above the medians of normal maps: twice the highest less the least."""
    model = vaex.load("sprites")
    score = score_named({"name": "reconstruction", "pool": "max"})
    maps = vaex.explain(model, IMAGES, score=score).score_map
    middle = float(maps.flatten(1).sort(descending=True).values[:, maps[0].numel() // 2].max())
    quantiles = torch.full((30, len(PIXEL_RATES)), middle / 2)
    quantiles[0, :] = 0.1 * middle  # the limit is .9 of the highest median of the images
    kept = read_checkpoint("sprites")
    kept["calibration"] = {**(kept.get("calibration") or {}), **normal_state(score, torch.full((30,), 1e6), quantiles)}
    torch.save(kept, tmp_path / "model.ckpt")
    options = ["format=pt2", f"ckpt={tmp_path / 'model.ckpt'}", "what=score", "score=reconstruction", "score.pool=max"]
    assert main(["export", f"out={tmp_path / 'score.pt2'}", *options]) == 0
    extra = {"vaex.json": ""}
    found = torch.export.load(tmp_path / "score.pt2", extra_files=extra).module()(IMAGES)
    limit = float(json.loads(extra["vaex.json"])["scene_threshold"])
    assert limit == pytest.approx(0.9 * middle, rel=1e-5)
    expected = [middle_of(each[0].numpy()) > limit for each in maps]
    assert any(expected)
    assert found["anomalous"].tolist() == expected


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("what=atention", "did you mean 'attention'"),
        ("format=onx", "did you mean 'onnx'"),
        ("input=uint", "did you mean 'uint8'"),
        ("image_size=64", "image_size must be [height, width]"),
        ("batch_size=0", "batch_size must be at least 1"),
        ("threshold=high", "threshold must be a number"),
        ("attention.method=score_cam", "takes several passes"),
        ("treshold=1", "did you mean 'threshold'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    argument: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = [] if argument.startswith("what") else ["what=score"]
    assert main(["export", f"out={tmp_path / 'x'}", *what, argument]) == 1
    message = capsys.readouterr().err
    assert told in message
    assert len(message.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_onnx_of_a_checkpoint_file(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    slim_checkpoint("sprites", tmp_path / "mine.ckpt")
    path = tmp_path / "maps.onnx"
    assert main(["export", f"ckpt={tmp_path / 'mine.ckpt'}", f"out={path}"]) == 0
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (maps,) = session.run(["maps"], {"image": IMAGES.numpy()})
    model = vaex.load(tmp_path / "mine.ckpt")
    expected = vaex.explain(model, IMAGES, **model.config["run"]["attention"]).maps
    torch.testing.assert_close(torch.from_numpy(maps), expected, rtol=0, atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert (told["checkpoint"], told["what"], told["batch_size"]) == ("mine.ckpt", "attention", "any")
