"""`vaex app` for images in tiles: its scores, decisions and maps are those that `vaex explain` writes of the files."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

import vaex
from vaex.build import build_model
from vaex.cli import main
from vaex.commands import app
from vaex.commands.app_answers import Answers
from vaex.commands.app_choices import Choices
from vaex.commands.app_explorer import Explorer
from vaex.commands.app_view import Asked, View
from vaex.commands.app_words import archive_stem, empty_html, own_asked, verdict_html, write_archive
from vaex.commands.same_reading import cut_once
from vaex.data.images import read_image
from vaex.scores import score_named
from vaex.scores.thresholds import PIXEL_RATES, normal_state

NETWORK: dict[str, Any] = {"name": "conv", "shape": [3, 32, 32], "width": 4, "depth": 2, "hidden": 8, "latents": 4}
SCORE = {"name": "reconstruction", "pool": "max"}
NAMES = ("deep.tiff", "defect.png", "grey.png", "small.png", "turned.jpg")


class Explained(NamedTuple):
    """A checkpoint of tiles, a folder of images, and what `vaex explain` said and wrote of them."""

    checkpoint: Path
    images: Path
    told: str
    rows: dict[str, dict[str, str]]
    maps: dict[str, Any]


def save_checkpoint(file: Path) -> None:
    """Write a model of tiles of 24 pixels that share 8, which it sees as 32, with the scores of 19 normal images."""
    torch.manual_seed(0)
    model = build_model(NETWORK)
    data = {"_target_": "vaex.data.Folder", "normal_dir": "good", "size": 32, "tile": 24, "overlap": 8, "white": 4095.0}
    levels = torch.linspace(0.1, 0.5, 19)[:, None].repeat(1, len(PIXEL_RATES))
    known = {**normal_state(score_named(SCORE), levels[:, 0], levels), "tiles": {"tile": 24, "overlap": 8}}
    content = {
        "state_dict": {f"vae.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": {"network": NETWORK, "run": {"data": data, "score": SCORE}},
        "calibration": {**known, "white": 4095.0},
    }
    torch.save(content, file)


def draw(folder: Path) -> None:
    """Write images of 70 x 50 pixels of each kind that is read otherwise, and one that is smaller than a tile."""
    pixels = np.random.default_rng(0).integers(110, 140, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels[:11, :17]).save(folder / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif)
    deep = np.full((50, 70), 2048, dtype=np.uint16)
    deep[5:20, 30:40] = 4095
    Image.fromarray(deep).save(folder / "deep.tiff")
    pixels[40:48, 50:64] = (255, 0, 255)
    Image.fromarray(pixels).save(folder / "defect.png")


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Explained:
    place = tmp_path_factory.mktemp("tiles")
    (place / "images").mkdir()
    save_checkpoint(place / "model.ckpt")
    draw(place / "images")
    told = io.StringIO()
    with redirect_stdout(told):
        arguments = [f"ckpt={place / 'model.ckpt'}", f"images={place / 'images'}", f"out={place / 'out'}"]
        assert main(["explain", *arguments]) == 0
    with (place / "out" / "explain.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    with np.load(place / "out" / "score_maps.npz") as stored:
        maps = {name: stored[name] for name in stored.files}
    return Explained(place / "model.ckpt", place / "images", told.getvalue(), rows, maps)


def under_command(monkeypatch: pytest.MonkeyPatch, act: Callable[[DictConfig], Any], *arguments: str) -> Any:
    """Return what ``act`` makes of the config of the command, in place of a page."""
    seen: list[Any] = []
    monkeypatch.setattr(app, "serve", lambda config: seen.append(act(config)))
    assert main(["app", *arguments]) == 0
    return seen[0]


def opened(monkeypatch: pytest.MonkeyPatch, checkpoint: str | Path, *arguments: str) -> Explorer:
    def explorer_of(config: DictConfig) -> Explorer:
        return app.explorer_for(config, app.checked_options(config))

    found: Explorer = under_command(monkeypatch, explorer_of, f"ckpt={checkpoint}", *arguments)
    return found


@pytest.fixture(scope="module")
def explorer(explained: Explained) -> Explorer:
    with pytest.MonkeyPatch.context() as patch:
        return opened(patch, explained.checkpoint, "max_latents=2")


def view_of(explorer: Explorer, file: Path) -> View:
    return explorer.open(file, file.name, own_asked(explorer))


def test_scores_decisions_and_maps_are_those_of_explain(explained: Explained, explorer: Explorer) -> None:
    assert sorted(explained.rows) == sorted(NAMES)
    decisions = set()
    for name in NAMES:
        view, row = view_of(explorer, explained.images / name), explained.rows[name]
        assert view.verdict.score == pytest.approx(float(row["score"]), rel=1e-6)
        assert {None: "", True: "anomalous", False: "ok"}[view.verdict.anomalous] == row["decision"]
        assert view.whole is not None
        np.testing.assert_allclose(view.whole.score_map, explained.maps[name], rtol=1e-6, atol=1e-7)
        assert max(view.whole.scores) == view.whole.scores[0] == pytest.approx(view.verdict.score)
        decisions.add(row["decision"])
    assert decisions == {"ok", "anomalous"}
    sentences = explorer.inspection.sentences()
    assert len(sentences) == 3
    assert "\n".join(sentences) in explained.told
    assert view_of(explorer, explained.images / "turned.jpg").size == (50, 70)


def test_the_command_says_how_it_cuts_as_explain_does(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    ckpt = f"ckpt={explained.checkpoint}"
    (sentence,) = under_command(monkeypatch, cut_once, ckpt)
    assert sentence in explained.told
    assert under_command(monkeypatch, cut_once) == []  # the shipped model has no tiles


def test_a_tile_is_what_a_file_of_its_pixels_is_read_as(
    explained: Explained, explorer: Explorer, tmp_path: Path
) -> None:
    view = view_of(explorer, explained.images / "defect.png")
    whole, picture = view.whole, Image.open(explained.images / "defect.png")
    assert whole is not None
    assert len(whole.tiles) == 4 * 3
    assert list(whole.scores) == sorted(whole.scores, reverse=True)
    for place in (0, 3, 11):
        turned = explorer.turn(view, place)
        picture.crop(whole.box(place)).save(tmp_path / "tile.png")
        expected = torch.from_numpy(read_image(tmp_path / "tile.png", (3, 32, 32)))[None]
        assert torch.equal(turned.own.image, expected)
        said = vaex.explain(explorer.model, expected, score=score_named(SCORE), **explorer.options)
        torch.testing.assert_close(turned.own.maps, said.maps)
        torch.testing.assert_close(turned.own.explanation.score_map, said.score_map)
        assert whole.scores[place] == pytest.approx(float(said.score[0]), rel=1e-5)
        assert (turned.place, turned.verdict, turned.whole) == (place, view.verdict, whole)
    x0, y0, x1, y1 = whole.box(0)
    assert x0 < 64
    assert x1 > 50
    assert y0 < 48
    assert y1 > 40  # the tile of highest score holds some of the defect


def test_another_tile_has_its_own_latents_and_sliders(explained: Explained, explorer: Explorer) -> None:
    view = explorer.move(view_of(explorer, explained.images / "defect.png"), {0: 3.0})
    assert view.moved == ((0, 3.0),)
    turned = explorer.turn(view, 11)
    assert turned.moved == ()
    kl = turned.own.explanation.kl
    assert kl is not None
    assert list(turned.shown) == np.argsort(-kl[0].numpy(), kind="stable")[:2].tolist()
    assert turned.decoded is not None
    assert not torch.equal(turned.code, view.code)
    assert explorer.turn(turned, 11) is turned
    other = explorer.turn(explorer.ask(view, Asked("encoder.conv1", "hires_cam", "kl")), 4)
    expected = vaex.explain(explorer.model, other.own.image, layer="conv1", method="hires_cam", target="kl").maps
    torch.testing.assert_close(other.own.maps, expected)


def test_words_are_of_the_image_and_name_the_tile(explained: Explained, explorer: Explorer) -> None:
    view = explorer.turn(view_of(explorer, explained.images / "defect.png"), 5)
    whole = view.whole
    assert whole is not None
    x0, y0, x1, y1 = whole.box(5)
    said = verdict_html(explorer, view)
    assert f"score {view.verdict.score:.4g} (reconstruction), the highest of 12 tiles" in said
    assert "70 x 50 pixels, in tiles of 24 pixels that share 8" in said
    assert f"Below is tile 6 by score: {whole.scores[5]:.4g}, x {x0} to {x1}, y {y0} to {y1}." in said
    moved = verdict_html(explorer, explorer.move(view, {0: 3.0}))
    assert f"; this tile {whole.scores[5]:.4g}, decoded from the sliders: " in moved
    assert "it is scored in tiles of 24 pixels that share 8, which the model sees as 32 x 32" in empty_html(explorer)
    assert whole.labels()[5] == f"6: {whole.scores[5]:.4g} at x {x0}, y {y0}"
    assert len(set(whole.labels())) == 12
    one = verdict_html(explorer, view_of(explorer, explained.images / "small.png"))
    assert "tiles" not in one.split("</p>")[0]  # the first line


def test_the_archive_says_what_it_is_of(explained: Explained, explorer: Explorer, tmp_path: Path) -> None:
    view = explorer.turn(view_of(explorer, explained.images / "defect.png"), 5)
    whole = view.whole
    assert whole is not None
    assert archive_stem(view) == "defect_x{}_y{}".format(*whole.box(5)[:2])
    with zipfile.ZipFile(write_archive(explorer, view, tmp_path / "maps.zip")) as archive:
        arrays = np.load(io.BytesIO(archive.read("maps.npz")))
        about = json.loads(archive.read("about.json"))
        drawn = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in ("whole.png", "images.png")}
    np.testing.assert_array_equal(arrays["image"], view.own.image[0].numpy())
    np.testing.assert_array_equal(arrays["whole_score_map"], whole.score_map)
    assert float(arrays["whole_score"]) == pytest.approx(view.verdict.score)
    assert arrays["tiles"].tolist() == [list(whole.box(place)) for place in range(12)]
    np.testing.assert_allclose(arrays["tile_scores"], whole.scores, rtol=1e-6)
    assert about["tile"] == {"rank": 6, "box": list(whole.box(5)), "score": whole.scores[5]}
    assert (about["size"], about["tiles"]) == ([70, 50], {"side": 24, "overlap": 8, "count": 12})
    assert (about["image"], about["anomalous"], about["threshold"]) == ("defect.png", True, pytest.approx(0.5))
    assert all(picture.ndim == 3 for picture in drawn.values())


@pytest.mark.slow
@pytest.mark.parametrize("cut", [[], ["tile=null"]])
def test_the_score_reads_the_maps_of_calibration_whatever_maps_are_typed(
    explained: Explained, cut: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = torch.load(explained.checkpoint, weights_only=True)
    levels = torch.linspace(0.01, 0.02, 19)[:, None].repeat(1, len(PIXEL_RATES))
    known: dict[str, Any] = {**normal_state(score_named("attention"), levels[:, 0], levels)}
    known |= {"attention": {"layer": "conv1", "target": "mean"}, "white": 4095.0}
    content["calibration"] = known if cut else {**known, "tiles": {"tile": 24, "overlap": 8}}
    torch.save(content, tmp_path / "model.ckpt")
    typed = ["score=attention", "attention.layer=conv2", "attention.target=kl", *cut]
    arguments = [f"images={explained.images}", f"out={tmp_path / 'out'}", "pictures=false"]
    assert main(["explain", f"ckpt={tmp_path / 'model.ckpt'}", *typed, *arguments]) == 0
    with (tmp_path / "out" / "explain.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    other = opened(monkeypatch, tmp_path / "model.ckpt", *typed)
    for name in NAMES:
        view = view_of(other, explained.images / name)
        assert view.verdict.score == pytest.approx(float(rows[name]["score"]), rel=1e-5)
        assert rows[name]["decision"] == ("anomalous" if view.verdict.anomalous else "ok")
        shown = vaex.explain(other.model, view.own.image, "conv2", target="kl").maps
        torch.testing.assert_close(view.own.maps, shown)
        assert "those of the checkpoint&#x27;s own maps, whatever maps are chosen" in verdict_html(other, view)


@pytest.mark.parametrize(("typed", "these"), [(["tile=null"], "whole"), (["tile=16", "overlap=4"], "with tile=16")])
def test_other_tiles_have_no_threshold(
    explained: Explained, monkeypatch: pytest.MonkeyPatch, typed: Sequence[str], these: str
) -> None:
    other = opened(monkeypatch, explained.checkpoint, *typed)
    view = view_of(other, explained.images / "defect.png")
    assert view.verdict.anomalous is None
    assert (view.whole is None) == (these == "whole")
    said = verdict_html(other, view)
    assert f"images scored with tile=24 overlap=8, these are scored {these}" in said
    assert "give tile=24 overlap=8, run" in said  # keys of this command


def test_any_model_scores_in_tiles_that_are_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explorer = opened(monkeypatch, "sprites", "tile=40", "overlap=8", "threshold=1.5")
    view = explorer.example(own_asked(explorer))
    assert view.whole is not None
    assert len(view.whole.tiles) == 4
    assert view.verdict.anomalous == (view.whole.scores[0] > 1.5)
    assert explorer.full(view) == pytest.approx(float(view.whole.score_map.max()))  # no threshold of pixels
    assert {name: picture.ndim for name, picture in explorer.pictures(view).items()} == dict.fromkeys(
        ("whole", "images", "maps"), 3
    )
    monkeypatch.undo()
    assert main(["app", "tile=0"]) == 1
    assert "vaex app: tile and overlap are whole pixels" in capsys.readouterr().err


def test_a_tile_is_chosen_on_the_page(explained: Explained, explorer: Explorer, tmp_path: Path) -> None:
    gr = SimpleNamespace(update=lambda **told: told, skip=lambda: "as it was")
    choices = Choices({"last": None, "none": "nowhere"}, {"grad_cam": "grad_cam"}, {"mean": "mean"})
    answers, asked = Answers(gr, explorer, choices, tmp_path), ("last", "grad_cam", "mean", 0.75)
    view, words, *rest = answers.on_file(str(explained.images / "defect.png"), "me", *asked)
    pictures, sliders, (extra, tile, made) = rest[:3], rest[3:-3], rest[-3:]
    assert [picture.ndim for picture in pictures] == [3, 3, 3]
    assert len(sliders) == 3  # max_latents=2, and one more
    assert "defect.png" in words
    assert tile == {"choices": [(label, n) for n, label in enumerate(view.whole.labels())], "value": 0, "visible": True}
    assert not made["visible"]
    turned, words, *rest = answers.on_tile(view, 7, "me", *asked)
    assert turned.place == rest[-2]["value"] == 7
    assert "Below is tile 8" in words
    assert [slider["value"] for slider in rest[3:5]] == [turned.value(latent) for latent in turned.shown]
    assert "z" in extra["choices"][1]
    kept, words, *rest = answers.on_tile(turned, 3, "me", "none", *asked[1:])  # a layer that is none
    assert kept is turned
    assert "nowhere" in words
    assert rest[:3] == [None] * 3
    assert rest[-2]["value"] == 7
    nothing = answers.on_tile(None, 3, "me", *asked)
    assert nothing[:1] + nothing[2:5] == [None] * 4
    assert nothing[-2] == {"visible": False}
