"""What `vaex app` computes, against `vaex.explain` and the decoder, and one sentence for whatever is wrong."""

from __future__ import annotations

import importlib.util
import io
import json
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vaex
from vaex.build import build_model
from vaex.cli import main
from vaex.commands.app import listening
from vaex.commands.app_choices import choices_for, label_of, spatial_layers
from vaex.commands.app_explorer import REACH, Explorer
from vaex.commands.app_stopping import StoppedError, Stopping
from vaex.commands.app_view import Asked
from vaex.commands.app_words import empty_html, error_html, own_asked, verdict_html, write_archive
from vaex.commands.inspection import Inspection
from vaex.data.render import example_sprites
from vaex.errors import VaexError
from vaex.scores import score_named
from vaex.viz import overlay

SHAPE = (1, 64, 64)
GRID: dict[str, Any] = {"name": "feature_grid", "latents": 40, "hidden": 5, "decoder_hidden": 6, "rank": 4}
GRID |= {"shape": [3, 32, 32], "blocks": [0, 2], "size": 32, "grid": 8}
SPRITE = torch.from_numpy(example_sprites(1)).float()  # (1, 64, 64)
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    model = vaex.load("sprites")
    options = {**model.config["run"]["attention"], "layer": "conv3"}
    return Explorer(model, options, Inspection(score_named("attention"), threshold=1.5), SHAPE, most=3)


@pytest.fixture(scope="module")
def grid() -> Explorer:
    torch.manual_seed(0)
    model = build_model(GRID).eval()
    return Explorer(model, {}, Inspection(score_named("kl"), reason="not calibrated."), (3, 32, 32), most=3)


def seen(explorer: Explorer, **asked: Any) -> Any:
    return explorer.see(SPRITE, "x.png", (64, 64), own_asked(explorer)._replace(**asked))


def test_an_image_is_seen_as_explain_sees_it(explorer: Explorer) -> None:
    view = seen(explorer)
    expected = vaex.explain(explorer.model, SPRITE[None], **explorer.options)
    torch.testing.assert_close(view.own.maps, expected.maps)
    torch.testing.assert_close(view.own.explanation.score_map, expected.score_map)
    assert view.verdict.score == pytest.approx(float(expected.score[0]))
    assert view.verdict.anomalous == (float(expected.score[0]) > 1.5)
    assert expected.kl is not None
    assert list(view.shown) == np.argsort(-expected.kl[0].numpy(), kind="stable")[:3].tolist()
    assert explorer.columns(view)[0] == list(view.shown)
    assert explorer.columns(view)[1][0] == f"z{view.shown[0]}  KL {float(expected.kl.max()):.2f} nats"
    assert view.decoded is not None
    assert expected.reconstruction is not None
    torch.testing.assert_close(view.decoded.image, expected.reconstruction.clamp(0, 1))  # no latent was moved


def test_a_moved_latent_is_decoded_and_looked_at_again(explorer: Explorer) -> None:
    view = seen(explorer)
    latent = view.shown[1]
    moved = explorer.move(view, {latent: -1.25, view.shown[0]: view.value(view.shown[0])})
    assert moved.moved == ((latent, -1.25),)  # a slider that stands at the rounded code is not moved
    code = view.own.explanation.mean.clone()
    code[0, latent] = -1.25
    with torch.no_grad():
        decoded = explorer.model.decode(code).mean.clamp(0, 1)  # type: ignore[operator]
    assert moved.decoded is not None
    torch.testing.assert_close(moved.decoded.image, decoded)
    expected = vaex.explain(explorer.model, decoded, **explorer.options)
    torch.testing.assert_close(moved.decoded.maps, expected.maps)
    assert view.decoded is not None
    assert not torch.equal(moved.decoded.maps, view.decoded.maps)
    assert moved.own is view.own
    back = explorer.move(moved, {})
    assert back.decoded is not None
    torch.testing.assert_close(back.decoded.image, view.decoded.image, rtol=0, atol=0)


def test_other_maps_leave_score_and_decision(explorer: Explorer) -> None:
    view, asked = seen(explorer), Asked("encoder.conv2", "hires_cam", "kl")
    other = explorer.ask(view, asked)
    expected = vaex.explain(explorer.model, SPRITE[None], layer="conv2", method="hires_cam", target="kl").maps
    torch.testing.assert_close(other.own.maps, expected)
    assert other.decoded is not None
    assert other.decoded.maps.shape == expected.shape
    assert other.verdict == view.verdict
    assert "whatever maps are chosen" in verdict_html(explorer, other)
    assert "whatever maps are chosen" not in verdict_html(explorer, view)
    total = explorer.ask(view, asked._replace(target="total_kl"))
    assert explorer.columns(total) == ([0], ["total"])
    with pytest.raises(VaexError, match=r"did you mean 'encoder\.conv2'"):
        explorer.ask(view, asked._replace(layer="encoder.conv22"))


def test_sliders_reach_the_code(explorer: Explorer) -> None:
    view = seen(explorer)
    assert explorer.reach(view, 0) == REACH
    view.own.explanation.mean[0, 0] = -6.25
    assert explorer.reach(view, 0) == 8


def test_files_are_read_as_by_every_command(explorer: Explorer, tmp_path: Path) -> None:
    file = tmp_path / "deep.tiff"
    wide = np.zeros((100, 50), dtype=np.uint16)
    wide[20:40] = 65535
    Image.fromarray(wide).save(file)
    view = explorer.open(file, "deep.tiff", own_asked(explorer))
    assert view.size == (50, 100)
    assert float(view.own.image[0, 0, 19, 32]) == pytest.approx(1, abs=0.01)
    assert "50 x 100 pixels, seen as 64 x 64" in verdict_html(explorer, view)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(VaexError, match=r"^broken\.png cannot be read as an image") as caught:
        explorer.open(broken, "broken.png", own_asked(explorer))
    assert str(tmp_path) not in str(caught.value)


def test_the_model_decides_what_may_be_chosen(explorer: Explorer) -> None:
    found = choices_for(explorer.model, SHAPE, explorer.options)
    assert next(iter(found.layers)) == "conv3"
    assert found.layers["last convolution"] is None
    assert "encoder.conv3" not in found.layers  # it is the first
    assert "encoder.conv1" in found.layers
    assert not [name for name in found.layers if "decoder" in name or "linear" in name]
    for layer in found.layers.values():
        assert vaex.explain(explorer.model, SPRITE[None], layer).maps.shape == (1, 10, 64, 64)
    state = vaex.load("sprites")
    state.calibration = {}
    assert not {"normal_difference", "mahalanobis"} & set(choices_for(state, SHAPE, explorer.options).targets)


def test_a_container_stands_for_its_last_module() -> None:
    inner = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    model = torch.nn.Sequential(inner, torch.nn.Flatten(), torch.nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 1, 8, 8))
    assert spatial_layers(model, torch.zeros(1, 1, 8, 8)) == ["0.0", "0"]


def test_labels_of_options() -> None:
    assert label_of(["conv1", "conv2"]) == "conv1 + conv2"
    assert label_of({"name": "sample", "n": 8}) == "sample (n=8)"
    assert label_of(None) == "last convolution"


def test_a_latent_grid_has_maps_and_a_sentence(grid: Explorer) -> None:
    assert not grid.movable
    assert "decodes features and no images" in grid.reason
    assert "codes an image by 8 x 8 cells per latent" in grid.reason
    view = grid.see(torch.rand(3, 32, 32), "x.png", (32, 32), own_asked(grid))
    assert view.decoded is None
    assert grid.move(view, {0: 1.0}) is view
    assert len(grid.columns(view)[0]) == 3
    assert grid.images_picture(view).ndim == grid.maps_picture(view).ndim == 3
    assert grid.reason in verdict_html(grid, view)
    assert grid.reason in empty_html(grid)
    assert "no decision" in verdict_html(grid, view)


def test_the_archive_holds_raw_maps_and_overlays(explorer: Explorer, tmp_path: Path) -> None:
    view = explorer.move(seen(explorer), {0: 2.0})
    assert view.decoded is not None
    path = write_archive(explorer, view, tmp_path / "maps.zip", opacity=0.5)
    with zipfile.ZipFile(path) as archive:
        arrays = np.load(io.BytesIO(archive.read("maps.npz")))
        overlays = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()[4:]}
        about = json.loads(archive.read("about.json"))
    np.testing.assert_array_equal(arrays["maps"], view.own.maps[0].numpy())
    np.testing.assert_array_equal(arrays["decoded_maps"], view.decoded.maps[0].numpy())
    np.testing.assert_array_equal(arrays["decoded_image"], view.decoded.image[0].numpy())
    assert len(overlays) == 20
    top = max(arrays["maps"].max(), arrays["decoded_maps"].max())
    drawn = overlay(SPRITE[0].numpy(), arrays["maps"][3], vmax=float(top), opacity=0.5)
    np.testing.assert_array_equal(overlays["overlays/z03.png"], drawn)
    assert about["moved"] == {"z0": 2.0}
    assert about["overlays"]["full_colour"] == pytest.approx(float(top))
    assert about["latents"] == list(range(10))


def test_a_long_method_is_stopped_at_the_next_module(explorer: Explorer) -> None:
    stopping, view, calls = Stopping(), seen(explorer), []

    def ask(module: Any, args: Any, output: Any) -> None:
        calls.append(module)
        if len(calls) == 3:
            threading.Thread(target=stopping.ask, args=["another"]).start()  # somebody else's, who waits for nothing
            helper = threading.Thread(target=stopping.ask, args=["mine"])
            helper.start()
            helper.join()

    encoder: Any = explorer.model.encoder
    handle = encoder.register_forward_hook(ask)
    slow = own_asked(explorer)._replace(method="integrated_gradients")
    try:
        with pytest.raises(StoppedError, match="Choose another method"), stopping.allowed("mine"):
            explorer.ask(view, slow._replace(method={"name": "integrated_gradients", "steps": 16}))
    finally:
        handle.remove()
    assert len(calls) == 3
    with stopping.allowed("mine"):  # what was stopped is over, and nothing of it stays
        assert explorer.ask(view, slow).own.maps.shape == view.own.maps.shape


def test_colour_is_seen_as_grey_and_grey_as_colour(explorer: Explorer, grid: Explorer, tmp_path: Path) -> None:
    for mode, model in (("RGB", explorer), ("RGBA", explorer), ("L", grid), ("P", grid), ("1", grid)):
        file = tmp_path / f"{mode}.png"
        Image.new(mode, (31, 7), 1).save(file)
        view = model.open(file, file.name, own_asked(model))
        assert view.own.image.shape[1:] == model.shape
        assert view.size == (31, 7)


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.4", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_one_sentence(explorer: Explorer, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with pytest.raises(VaexError, match=r"^x\.png cannot be read as an image"):
        explorer.open(file, "x.png", own_asked(explorer))


def test_names_of_files_stay_text(explorer: Explorer) -> None:
    view = explorer.see(SPRITE, "<img src=x onerror=alert(1)>.png", (64, 64), own_asked(explorer))
    assert "<img" not in verdict_html(explorer, view)
    assert "<b>" not in error_html("<b>")


@pytest.mark.parametrize(("size", "told"), [((7, 64), True), ((8, 64), False), ((300, 5), True)])  # 64 / 8 is 8
def test_what_is_mostly_enlargement_is_told(explorer: Explorer, size: tuple[int, int], told: bool) -> None:
    view = explorer.see(SPRITE, "x.png", size, own_asked(explorer))
    assert ("less than 1/8 as high or wide" in verdict_html(explorer, view)) == told


def test_a_port_is_taken_or_free() -> None:
    with listening("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
        assert socket.create_connection(("127.0.0.1", port), timeout=5)
        with pytest.raises(VaexError, match=rf"No page at 127.0.0.1:{port} .*port=0"), listening("127.0.0.1", port):
            pass
    with pytest.raises(VaexError, match="not a name or address"), listening("nowhere.invalid", 0):
        pass


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["port=70000"], "port must be a whole number from 1 to 65535"),
        (["max_latents=0"], "max_latents must be at least 1"),
        (["false_alarm_rate=2"], "false_alarm_rate"),
        (["ckpt=nowhere.ckpt"], "No checkpoint at nowhere.ckpt"),
        (["prt=1"], "did you mean 'port'"),
        pytest.param(["attention.target=maen"], "did you mean 'mean'", marks=[needs_gradio, pytest.mark.slow]),
    ],
)
def test_wrong_options_are_one_sentence(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", *arguments]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("vaex app: ")
    assert expected in told[0]


def test_without_gradio_it_is_one_sentence(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("vaex.commands.app.find_spec", lambda name: None)
    assert main(["app"]) == 1
    assert "vaex app needs gradio: pip install 'vaex-attention[app]'" in capsys.readouterr().err
