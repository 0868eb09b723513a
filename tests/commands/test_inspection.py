"""`vaex explain` as an inspection: thresholds from calibration, decisions, regions, tables without pictures, tiles."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from scipy import ndimage

import vaex
import vaex.scores.evidence
from tests.exporting.test_feature_networks import SMALL
from tests.exporting.test_feature_networks import fitted as feature_network
from vaex.attention import latent_attention
from vaex.calibrate import fit_calibration
from vaex.cli import main
from vaex.commands.inspection import Inspection, inspection_of
from vaex.data import Sprites
from vaex.held_out import score_normal
from vaex.scores import score_named
from vaex.scores.thresholds import PIXEL_RATES, NormalScores, normal_state, threshold_at

GRID = {"shape": 3, "scale": 2, "orientation": 1, "x": 6, "y": 6}
DATA = ["data=sprites", "data.size=64", f"data.grid={GRID}".replace("'", ""), "data.val=40", "data.test=8"]
SCORE = ["score=reconstruction", "score.pool=max"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibrated") / "sprites.ckpt"
    assert main(["calibrate", "ckpt=sprites", f"out={file}", *DATA, *SCORE]) == 0
    return file


def held_out() -> torch.Tensor:
    data = Sprites(size=64, grid=GRID, val=40, test=8, seed=vaex.load("sprites").config["seed"])
    data.setup("fit")
    images: torch.Tensor = data.val_set.__getitems__(list(range(len(data.val_set))))["image"]
    return images


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A normal sprite, one of them with a square that no sprite has, and a file that is none; all 128 pixels."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    sprite = np.kron(np.asarray(held_out()[0, 0]), np.ones((2, 2))) * 255
    Image.fromarray(sprite.astype(np.uint8)).save(folder / "normal.png")
    defect = sprite.copy()
    corner = (100, 8) if sprite[100:112, 8:20].max() == 0 else (8, 100)
    defect[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = 255
    Image.fromarray(defect.astype(np.uint8)).save(folder / "defect.png")
    (folder / "broken.png").write_bytes(b"no")
    return folder


def document(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "regions.json").read_text())
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_calibration_keeps_the_scores_of_held_out_normal_images(calibrated: Path) -> None:
    model, images = vaex.load(calibrated), held_out()
    with torch.no_grad():
        error = (images - model(images).reconstruction).square().sum(1)
    kept = model.calibration["normal_scores"]["reconstruction"]
    torch.testing.assert_close(kept, error.flatten(1).amax(1), rtol=1e-4, atol=1e-5)
    pixels = model.calibration["normal_pixels"]["reconstruction"]
    torch.testing.assert_close(pixels[:, 0], error.flatten(1).amax(1), rtol=1e-4, atol=1e-5)
    hundredth = error.flatten(1).sort(descending=True).values[:, math.floor(0.01 * 64 * 64)]
    torch.testing.assert_close(pixels[:, 3], hundredth, rtol=1e-4, atol=1e-5)


def test_decision_and_regions(
    calibrated: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["explain", f"ckpt={calibrated}", f"images={pictures}", f"out={out}", *SCORE, "latents=[0]"]) == 0
    told = capsys.readouterr()
    assert "1 anomalous, 1 ok." in told.out
    assert "p50" in told.out
    assert "images/s" in told.out
    assert "broken.png cannot be read" in told.err
    assert {path.name for path in out.iterdir()} == {
        *("overview.png", "pictures", "overlays", "maps.npz", "explain.csv"),
        *("regions.json", "regions.csv", "score_maps.npz", "decisions", "skipped.csv", "explain.json"),
    }
    kept = vaex.load(calibrated).calibration["normal_scores"]["reconstruction"]
    head = document(out)
    assert head["threshold"] == pytest.approx(kept.sort().values[-2].item())  # 0.05 of 41 images: 2 may lie above
    assert head["normal_images"] == 40
    assert head["enough_normal_images"] is True
    images = {image["image"]: image for image in head["images"]}
    rows = {row["image"]: row for row in table(out / "explain.csv")}
    assert (images["normal.png"]["decision"], images["defect.png"]["decision"]) == ("ok", "anomalous")
    assert (rows["normal.png"]["decision"], rows["defect.png"]["decision"]) == ("ok", "anomalous")
    assert images["normal.png"]["regions"] == []
    maps = np.load(out / "score_maps.npz")
    defect = images["defect.png"]
    assert (defect["width"], defect["height"]) == (128, 128)
    assert float(rows["defect.png"]["score"]) == pytest.approx(maps["defect.png"].max())
    drawn = np.asarray(Image.open(pictures / "defect.png")).astype(int)
    changed = np.argwhere(drawn != np.asarray(Image.open(pictures / "normal.png")))
    region = max(defect["regions"], key=lambda one: one["area"])
    top, left = changed.min(0) - 2
    bottom, right = changed.max(0) + 3
    assert left <= region["x0"] < region["x1"] <= right
    assert top <= region["y0"] < region["y1"] <= bottom
    above = maps["defect.png"] > head["pixel_threshold"]
    assert sum(one["area"] for one in defect["regions"]) == 4 * above.sum()
    assert [row["image"] for row in table(out / "regions.csv")] == ["defect.png"] * len(defect["regions"])
    assert Image.open(out / "decisions" / "defect.png").size == (128, 128)


def test_region_of_interest_and_least_area(calibrated: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ["explain", f"ckpt={calibrated}", f"images={pictures}", "pictures=false", *SCORE]
    assert main([*arguments, f"out={tmp_path / 'all'}"]) == 0
    (whole,) = [one for one in document(tmp_path / "all")["images"] if one["decision"] == "anomalous"]
    found = max(whole["regions"], key=lambda one: one["area"])
    box = [found[key] for key in ("x0", "y0", "x1", "y1")]
    mask = np.full((128, 128), 255, dtype=np.uint8)
    mask[max(box[1] - 8, 0) : box[3] + 8, max(box[0] - 8, 0) : box[2] + 8] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert main([*arguments, f"out={tmp_path / 'in'}", f"roi={box}".replace(" ", "")]) == 0
    assert main([*arguments, f"out={tmp_path / 'out'}", f"roi={tmp_path / 'mask.png'}"]) == 0
    assert main([*arguments, f"out={tmp_path / 'large'}", f"min_area={found['area'] + 1}"]) == 0
    decisions = {
        name: {one["image"]: one["decision"] for one in document(tmp_path / name)["images"]}["defect.png"]
        for name in ("in", "out", "large")
    }
    assert decisions == {"in": "anomalous", "out": "ok", "large": "ok"}


def test_without_pictures_no_map_is_computed(
    calibrated: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    attention = latent_attention

    def counted(model: Any, images: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        computed.append(len(images))
        return attention(model, images, *arguments, **options)

    monkeypatch.setattr(vaex.scores.evidence, "latent_attention", counted)
    arguments = ["explain", f"ckpt={calibrated}", f"images={pictures}", *SCORE]
    assert main([*arguments, f"out={tmp_path / 'none'}", "pictures=false"]) == 0
    assert computed == []
    assert {path.name for path in (tmp_path / "none").iterdir()} == {
        *("explain.csv", "explain.json", "regions.json", "regions.csv", "skipped.csv")
    }
    assert main([*arguments, f"out={tmp_path / 'some'}", "pictures=anomalous"]) == 0
    assert computed == [1]
    assert [path.name for path in (tmp_path / "some" / "pictures").iterdir()] == ["defect.png"]
    assert [path.name for path in (tmp_path / "some" / "decisions").iterdir()] == ["defect.png"]
    assert np.load(tmp_path / "some" / "maps.npz").files == ["defect.png"]
    assert len(table(tmp_path / "some" / "explain.csv")) == 2


def test_an_image_that_is_unlike_all_normal_ones_as_a_whole_is_anomalous() -> None:
    """A map of the height of normal ones everywhere: its maximum is ordinary, its median is not."""
    scores = torch.linspace(1, 2, 39)
    pixels = scores[:, None] * torch.linspace(1, 0.1, len(PIXEL_RATES))  # medians from .1 to .2
    given: dict[str, Any] = {
        "score": {"name": "reconstruction", "pool": "max"},
        "false_alarm_rate": 0.05,
        "pixel_rate": 0,
    }
    rest = {"threshold": None, "pixel_threshold": None, "roi": None, "min_area": 1, "tile": None, "pictures": False}
    calibration = normal_state(score_named(given["score"]), scores, pixels)
    flat, spot = np.full((8, 8), 0.5, np.float32), np.full((8, 8), 0.29, np.float32)
    spot[2, 2] = 5

    def verdict(score_map: np.ndarray, **options: Any) -> Any:
        found = inspection_of(OmegaConf.create({**given, **rest, **options}), calibration, {})
        return found.judge(score_map, float(score_map.max()), (8, 8))

    assert (verdict(flat).anomalous, verdict(flat).unlike, verdict(flat).regions) == (True, True, [])
    assert (verdict(spot).anomalous, verdict(spot).unlike) == (True, False)
    assert (verdict(0.6 * flat).anomalous, verdict(0.6 * flat).unlike) == (False, False)  # a median of .3 is no more
    for other in ({"threshold": 3.0}, {"tile": 4, "overlap": 0}, {"roi": [0, 0, 8, 8]}):  # not comparable
        assert (verdict(flat, **other).anomalous, verdict(flat, **other).unlike) == (False, False)
    few = normal_state(score_named(given["score"]), scores[:7], pixels[:7])
    told = inspection_of(OmegaConf.create({**given, **rest}), few, {})
    assert told.scene is None
    assert not any("as a whole" in sentence for sentence in told.sentences())


def test_a_scene_without_a_part_is_told(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Path
) -> None:
    Image.new("L", (128, 128), 128).save(pictures / "grey.png")
    arguments = ["explain", f"ckpt={calibrated}", f"images={pictures}", f"out={tmp_path / 'out'}", *SCORE]
    for resumed in (False, True):
        assert main([*arguments, "pictures=false", f"resume={resumed}".lower()]) == 0
        told = capsys.readouterr()
        assert "1 of 3 images are unlike all normal ones as a whole" in told.out + told.err
    found = document(tmp_path / "out")
    assert {one["image"]: one["unlike"] for one in found["images"]} == {
        "normal.png": False,
        "defect.png": False,
        "grey.png": True,
    }
    medians = vaex.load(calibrated).calibration["normal_pixels"]["reconstruction"][:, -1]
    assert found["scene_threshold"] == pytest.approx(float(2 * medians.max() - medians.min()))
    assert {row["image"]: row["decision"] for row in table(tmp_path / "out" / "explain.csv")}["grey.png"] == "anomalous"


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``good``, 40 sprites by a camera of 12 bits, and what is calibrated on them."""
    place = tmp_path_factory.mktemp("camera")
    (place / "good").mkdir()
    for i, image in enumerate(held_out()[:40, 0].numpy()):
        Image.fromarray(np.rint(image * 4095).astype(np.uint16)).save(place / "good" / f"{i}.png")
    data = ["data=folder", f"data.normal_dir={place / 'good'}", "data.test_fraction=0", "data.val_fraction=0.5"]
    for name, white in (("camera", "4095"), ("plain", "null")):
        out = f"out={place / name}.ckpt"
        assert main(["calibrate", "ckpt=sprites", out, *data, f"data.white={white}", *SCORE]) == 0
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "typed", "told"),
    [
        ("camera", "4095", None),
        ("camera", "1000", "were read with data.white=4095, these are with 1000"),
        ("camera", "null", "were read with data.white=4095, these are with null"),
        ("plain", "null", None),
        ("plain", "4095", "were read with data.white=null, these are with 4095"),
    ],
)
def test_another_white_than_that_of_the_calibration_decides_nothing(
    name: str, typed: str, told: str | None, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", f"ckpt={camera / name}.ckpt", f"images={camera / 'good'}", *SCORE, "pictures=false"]
    assert main([*arguments, f"out={tmp_path / 'out'}", f"+data.white={typed}"]) == 0
    said = capsys.readouterr().out
    assert ("No decision between ok and anomalous" in said) == (told is not None)
    assert (told or "Anomalous is an image whose") in said
    assert ("decision" in table(tmp_path / "out" / "explain.csv")[0]) == (told is None)
    by_hand = [*arguments, f"out={tmp_path / 'hand'}", f"+data.white={typed}", "threshold=3"]
    assert main(by_hand) == 0
    assert "decision" in table(tmp_path / "hand" / "explain.csv")[0]


def test_tiles_of_a_large_image(calibrated: Path, tmp_path: Path) -> None:
    """Every tile is an image of its own, so four sprites in one are scored as they are alone."""
    sprites = np.asarray(held_out()[:4, 0]) * 255
    Image.fromarray(np.block([[sprites[0], sprites[1]], [sprites[2], sprites[3]]]).astype(np.uint8)).save(
        tmp_path / "large.png"
    )
    out = tmp_path / "out"
    arguments = ["explain", f"ckpt={calibrated}", f"images={tmp_path / 'large.png'}", f"out={out}", *SCORE]
    assert main([*arguments, "tile=64", "overlap=0"]) == 0
    images = torch.from_numpy((sprites.astype(np.uint8) / 255).astype(np.float32))[:, None]
    expected = vaex.explain(vaex.load(calibrated), images, score={"name": "reconstruction", "pool": "max"})
    score_map = np.load(out / "score_maps.npz")["large.png"]
    assert score_map.shape == (128, 128)
    np.testing.assert_allclose(score_map[64:, :64], expected.score_map[2, 0], rtol=1e-3, atol=1e-5)
    assert float(table(out / "explain.csv")[0]["score"]) == pytest.approx(float(expected.score.max()), rel=1e-4)


def test_without_calibration_there_is_no_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"out={tmp_path}", "pictures=false"]) == 0
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if line.startswith("No decision between ok and anomalous")]
    assert "run `vaex calibrate ckpt=..." in line
    assert {path.name for path in tmp_path.iterdir()} == {"explain.csv", "explain.json"}
    assert list(table(tmp_path / "explain.csv")[0]) == ["image", "score"]


def test_a_threshold_by_hand_needs_no_calibration(tmp_path: Path) -> None:
    arguments = ["pictures=false", *SCORE]
    assert main(["explain", f"out={tmp_path / 'a'}", *arguments]) == 0
    scores = sorted(float(row["score"]) for row in table(tmp_path / "a" / "explain.csv"))
    assert main(["explain", f"out={tmp_path / 'b'}", f"threshold={(scores[2] + scores[3]) / 2}", *arguments]) == 0
    assert sorted(row["decision"] for row in table(tmp_path / "b" / "explain.csv")) == ["anomalous"] * 3 + ["ok"] * 3
    assert all((one["decision"] == "anomalous") == bool(one["regions"]) for one in document(tmp_path / "b")["images"])


def test_a_threshold_for_pixels_alone_marks_and_does_not_decide(tmp_path: Path) -> None:
    assert main(["explain", f"out={tmp_path}", "pictures=false", "pixel_threshold=0.3", "score=reconstruction"]) == 0
    rows, images = table(tmp_path / "explain.csv"), document(tmp_path)["images"]
    assert list(rows[0]) == ["image", "score", "regions"]
    assert [one["decision"] for one in images] == [None] * 6
    assert [row["regions"] for row in rows] == [str(len(one["regions"])) for one in images]
    assert all(region["score"] > 0.3 for one in images for region in one["regions"])


@pytest.mark.parametrize("pixel_rate", [0, 0.01])
def test_the_threshold_of_regions_is_one_of_pixels(pixel_rate: float) -> None:
    """A sum over the map decides on the image, so its pixels need a threshold of their own."""
    scores, pixels = torch.arange(39.0), torch.rand(39, len(PIXEL_RATES)).sort(dim=1, descending=True).values
    score = score_named("reconstruction")
    given = {"score": {"name": "reconstruction"}, "false_alarm_rate": 0.05, "pixel_rate": pixel_rate}
    rest = {"threshold": None, "pixel_threshold": None, "roi": None, "min_area": 0, "tile": None, "pictures": False}
    calibration = normal_state(score, scores, pixels)
    found = inspection_of(OmegaConf.create({**given, **rest}), calibration, {})
    assert found.threshold == 37  # of 40 images 2 may lie above: the second highest of 39
    column = PIXEL_RATES.index(pixel_rate)
    assert found.pixel_threshold == pytest.approx(pixels[:, column].sort().values[-2].item())
    by_hand = inspection_of(OmegaConf.create({**given, **rest, "threshold": 3.0}), calibration, {})
    assert (by_hand.threshold, by_hand.pixel_threshold) == (3.0, found.pixel_threshold)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["false_alarm_rate=2"], "false_alarm_rate must be a number between 0 and 1"),
        (["threshold=high"], "threshold must be a number or null"),
        (["roi=[1,2,3]"], "roi must be [x0,y0,x1,y1]"),
        (["roi=/nowhere.png"], "or the file of a mask; no file /nowhere.png"),
        (["roi=[0,0,8,8]", "score=kl"], "roi needs a score that is a number of its map"),
        (
            ["roi=[900,900,901,901]"],
            "None of the 6 images could be judged; the first: sprite0: roi=[900, 900, 901, 901]",
        ),
        (["tile=64", "overlap=40"], "0 <= overlap <= tile / 2"),
        (["tile=64", "roi=[0,0,8,8]"], "tile and roi together need a score whose number is the maximum"),
        (["min_area=-1"], "min_area must be a number of pixels"),
        (["min_area=5"], "min_area needs a threshold for pixels"),
        (["pixel_rate=0.02"], "pixel_rate must be one of"),
        (["pictures=some"], "pictures"),
        (["pictures=anomalous"], "pictures=anomalous needs a decision"),
    ],
)
def test_wrong_input(arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"out={tmp_path / 'out'}", *arguments]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "explain.csv").exists()


def inspection(normal: torch.Tensor, **more: Any) -> Inspection:
    limit = threshold_at(normal, 0.05)
    kept = NormalScores(normal, normal[:, None])
    return Inspection(score_named("reconstruction"), limit.value, limit.value, limit, kept, **more)


def test_what_is_said_of_all_scores() -> None:
    generator = np.random.default_rng(0)
    normal = torch.from_numpy(generator.normal(size=200))
    same, shifted = generator.normal(size=300), generator.normal(0.8, 0.5, size=300)
    assert inspection(normal).warnings(same.tolist(), 15) == []
    (drift,) = inspection(normal).warnings(shifted.tolist(), 15)
    assert drift.startswith("Drift: the ")
    assert inspection(normal, roi=[0, 0, 1, 1]).warnings(shifted.tolist(), 15) == []  # of another part of the image
    (many,) = inspection(normal).warnings([99.0] * 10, 10)
    assert many.startswith("10 of 10 images are anomalous")


def test_too_few_normal_images_are_told() -> None:
    (_, few) = inspection(torch.arange(10.0)).sentences()
    assert "Too few normal images for false_alarm_rate=0.05: 10 were held out and it takes 19" in few
    (_, enough) = inspection(torch.arange(30.0)).sentences()
    assert "by 30 held-out normal images" in enough


def test_a_score_that_is_no_number_is_anomalous() -> None:
    values = np.full((4, 4), np.nan, dtype=np.float32)
    found = inspection(torch.arange(30.0)).judge(values, math.nan, (4, 4))
    assert found.anomalous is True


def test_the_mask_is_read_again_for_another_size(tmp_path: Path) -> None:
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[:, 10:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    images = {}
    for name, size in (("small", (20, 10)), ("large", (40, 20)), ("odd", (20, 20))):
        images[name] = tmp_path / f"{name}.png"
        Image.new("L", size).save(images[name])
    one = inspection(torch.arange(30.0), roi=tmp_path / "mask.png")
    values = np.zeros((8, 8), dtype=np.float32)
    values[0, 0], values[0, 7] = 90, 40
    for name, size in (("small", (20, 10)), ("large", (40, 20))):
        assert one.judge(values, 90.0, size, images[name]).score == (0 + values[:, 4:].sum())
    with pytest.raises(vaex.errors.VaexError, match="give a mask of the image's size"):
        one.judge(values, 90.0, (20, 20), images["odd"])


def test_thresholds_of_images_that_were_read_otherwise_do_not_stay(camera: Path, tmp_path: Path) -> None:
    data = ["data=folder", f"data.normal_dir={camera / 'good'}", "data.test_fraction=0", "data.val_fraction=0.5"]
    for white, expected in (("4095", {"kl", "reconstruction"}), ("1000", {"kl"})):
        out = tmp_path / f"{white}.ckpt"
        arguments = [f"out={out}", *data, f"data.white={white}", "score=kl", "metrics.scores=[]"]
        assert main(["calibrate", f"ckpt={camera / 'camera.ckpt'}", *arguments]) == 0
        assert {"kl", "reconstruction"} & set(vaex.load(out).calibration["normal_scores"]) == expected


# --- kinds of defects


KINDS = ("pasted", "noise")


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a latent grid whose latents stand for two kinds, scored by the maps of all its latents."""
    folder = tmp_path_factory.mktemp("telling")
    model = feature_network("feature_grid")
    options: dict[str, Any] = {"layer": "input", "method": "hires_cam", "target": "total_kl", "rectify": "abs"}
    score = {"name": "attention", "sigma": 0.0, "pool": "max"}
    normal = list(torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1)).split(8))
    calibration = fit_calibration(model, normal, **options)
    calibration |= {"detectors": {}, "score": score, **score_normal(model, [score], normal, calibration, **options)}
    run = {"attention": {**options, "latents": None, "reduce": "sum", "chunk": None}, "score": score, "data": {}}
    config = {"network": SMALL["feature_grid"], "objective": {"kinds": list(KINDS)}, "run": run, "seed": 0}
    weights = {f"vae.{name}": value for name, value in model.state_dict().items()}
    content = {"state_dict": weights, "hyper_parameters": config, "calibration": calibration}
    torch.save(content, folder / "kinds.ckpt")
    (folder / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels[:16] //= 1 + 3 * number
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    return folder / "kinds.ckpt"


def looked_at(telling: Path, out: Path, *arguments: str) -> dict[str, Any]:
    images = telling.parent / "images"
    more = ["pictures=false", "false_alarm_rate=0.5", *arguments]
    assert main(["explain", f"ckpt={telling}", f"images={images}", f"out={out}", *more]) == 0
    return document(out)


@pytest.mark.parametrize("pictures", ["false", "anomalous", "true"])
def test_shown_kinds_leave_the_decision_and_name_the_regions(
    pictures: str, telling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ["attention=kinds", f"attention.target.names=[{','.join(KINDS)}]", f"pictures={pictures}"]
    plain = looked_at(telling, tmp_path / "plain")
    assert "maps that it was calibrated with" not in capsys.readouterr().out
    found = looked_at(telling, tmp_path / "kinds", *shown)
    assert "The score reads the maps that it was calibrated with" in capsys.readouterr().out
    assert found["threshold"] == plain["threshold"] is not None
    model = vaex.load(telling)
    options: dict[str, Any] = {"method": "hires_cam", "rectify": "root"}
    seen = 0
    for one, other in zip(found["images"], plain["images"], strict=True):
        assert one["decision"] == other["decision"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)
        pixels = np.asarray(Image.open(telling.parent / "images" / one["image"]), dtype=np.float32) / 255
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        target = {"name": "kinds", "names": list(KINDS)}
        maps = latent_attention(model, image, "input", target=target, **options)[0]
        total = latent_attention(model, image, "input", method="hires_cam", target="total_kl", rectify="abs")
        labels, count = ndimage.label((total[0, 0] > found["pixel_threshold"]).numpy(), np.ones((3, 3)))
        names = sorted(
            KINDS[int(torch.stack([part[torch.from_numpy(labels == number)].mean() for part in maps]).argmax())]
            for number in range(1, count + 1)
        )
        assert sorted(region["kind"] for region in one["regions"]) == names
        assert all("kind" not in region for region in other["regions"])
        seen += count
    assert seen
    rows = table(tmp_path / "kinds" / "regions.csv")
    assert [row["kind"] for row in rows] == [region["kind"] for one in found["images"] for region in one["regions"]]
    assert "kind" not in table(tmp_path / "plain" / "regions.csv")[0]
    if pictures == "true":
        assert (tmp_path / "kinds" / "overlays" / "0_noise.png").is_file()


def test_a_score_without_a_threshold_reads_the_maps_that_are_shown(telling: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["score.pool=sum", "attention.target=kl", "pictures=false", f"images={telling.parent / 'images'}"]
    assert main(["explain", f"ckpt={telling}", f"out={out}", *arguments]) == 0
    score = float(table(out / "explain.csv")[0]["score"])
    image = torch.from_numpy(np.asarray(Image.open(telling.parent / "images" / "0.png")) / 255).float()
    maps = latent_attention(
        vaex.load(telling), image.permute(2, 0, 1)[None], "input", method="hires_cam", target="kl", rectify="abs"
    )
    assert score == pytest.approx(maps.mean(1).sum().item(), rel=1e-4)
