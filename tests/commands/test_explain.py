"""`vaex explain`: pictures, overlays, raw maps and table of any images, unreadable ones named and skipped."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vaex
from vaex.cli import main
from vaex.commands.explain import safe_name
from vaex.data.render import example_sprites


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    sprites = example_sprites(3) * 255
    Image.fromarray(sprites[0]).save(folder / "a.png")
    Image.fromarray(sprites[1]).resize((100, 100)).convert("RGB").save(folder / "b.jpg")
    Image.fromarray(sprites[2]).save(folder / "sub" / "a.png")
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"hidden")
    return folder


def test_folder(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["explain", f"images={pictures}", f"out={out}", "latents=[0,2]", "batch_size=2"]) == 0
    text = capsys.readouterr()
    assert "3 images explained, 1 skipped." in text.out
    assert "broken.png cannot be read as an image" in text.err.replace("\n", "")
    assert {path.name for path in out.glob("*.png")} == {"overview.png", "a.png", "b.png", "sub__a.png"}
    overlays = {path.name for path in (out / "overlays").iterdir()}
    assert overlays == {f"{stem}_z0{latent}.png" for stem in ("a", "b", "sub__a") for latent in (0, 2)}
    maps = np.load(out / "maps.npz")
    assert set(maps.files) == {"a.png", "b.jpg", "sub/a.png"}
    model = vaex.load("sprites")
    image = torch.from_numpy(np.asarray(Image.open(pictures / "a.png"), dtype=np.float32) / 255)[None, None]
    run = model.config["run"]
    expected = vaex.explain(model, image, score=run["score"]["name"], **run["attention"])
    np.testing.assert_allclose(maps["a.png"], expected.maps[0], rtol=1e-4, atol=1e-6 * float(expected.maps.max()))
    with (out / "explain.csv").open(newline="") as file:
        table = {row["image"]: row for row in csv.DictReader(file)}
    assert float(table["a.png"]["score"]) == pytest.approx(float(expected.score[0]), rel=1e-4)
    assert float(table["a.png"]["mean_1"]) == pytest.approx(float(expected.mean[0, 1]), rel=1e-4, abs=1e-5)
    overlay = np.asarray(Image.open(out / "overlays" / "a_z00.png"))
    assert overlay.shape == (64, 64, 3)


def test_single_file_and_one_total_map(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["explain", f"images={pictures / 'a.png'}", f"out={out}", "attention=official"]) == 0
    assert np.load(out / "maps.npz")["a.png"].shape == (1, 64, 64)
    assert (out / "overlays" / "a_total.png").is_file()


def test_without_arguments_it_shows_example_sprites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain"]) == 0
    assert len(list(tmp_path.glob("outputs/explain/*/sprite*.png"))) == 6


def test_images_of_the_test_set_by_position(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["explain", "test_images=[3,0]", f"out={out}"]) == 0
    assert set(np.load(out / "maps.npz").files) == {"test00003", "test00000"}
    assert main(["explain", "test_images=[999999]", f"out={out}"]) == 1
    assert "out of range, there are 0 to 1023" in capsys.readouterr().err


def test_signed_maps(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [f"images={pictures / 'a.png'}", f"out={out}", "attention.rectify=none"]
    assert main(["explain", *arguments]) == 0
    assert np.load(out / "maps.npz")["a.png"].min() < 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["images=/nowhere"], "No image or folder at /nowhere"),
        (["latents=[99]"], "out of range"),
        (["device=quantum"], "device=quantum is not available"),
        (["attention.layer=conv9"], "Layer 'conv9' does not exist"),
        (["attention.method=gradcam"], "did you mean 'grad_cam'"),
        (["batch_size=0"], "batch_size must be at least 1"),
    ],
)
def test_wrong_input(arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"out={tmp_path / 'out'}", *arguments]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "maps.npz").exists()


def test_nothing_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    assert main(["explain", f"images={tmp_path}", f"out={tmp_path / 'out'}"]) == 1
    assert "None of the 1 images could be read" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["explain", f"images={tmp_path / 'empty'}", f"out={tmp_path / 'out'}"]) == 1
    assert "holds no images" in capsys.readouterr().err


def test_imports_no_lightning(tmp_path: Path) -> None:
    code = (
        "import sys; from vaex.cli import main; status = main(sys.argv[1:]);"
        "assert not {'lightning', 'torchmetrics'} & set(sys.modules), 'lightning'; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", f"out={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_file_names_stay_inside_the_folder() -> None:
    assert safe_name("sub/a.b.png") == "sub__a.b"
    assert "/" not in safe_name("../../x.png")
