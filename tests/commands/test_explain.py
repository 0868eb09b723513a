"""`vaex explain`: pictures, overlays, raw maps and table of any images, unreadable ones named and skipped."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vaex
from vaex.attention import latent_attention
from vaex.build import read_checkpoint
from vaex.cli import main
from vaex.commands.explain_pass import Pass
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
    assert "explain.csv, skipped.csv lie beside it." in text.out
    files = {"overview.png", "pictures", "overlays", "maps.npz", "explain.csv", "explain.json", "skipped.csv"}
    assert {path.name for path in out.iterdir()} == files
    with (out / "skipped.csv").open(newline="") as file:
        ((skipped, reason),) = [(row["image"], row["reason"]) for row in csv.DictReader(file)]
    assert skipped == "broken.png"
    assert "cannot be read as an image" in reason
    assert {path.name for path in (out / "pictures").iterdir()} == {"a.png", "b.png", "sub__a.png"}
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


def test_white_of_the_data_reaches_the_images(pictures: Path, tmp_path: Path) -> None:
    """A picture of 12 bits has the score of the same one of 8 bits, whoever says what is white."""
    eight = np.asarray(Image.open(pictures / "a.png"), dtype=np.float64)
    (tmp_path / "camera").mkdir()
    Image.fromarray(np.rint(eight / 255 * 4095).astype(np.uint16)).save(tmp_path / "camera" / "a.png")
    content = read_checkpoint("sprites")
    content["hyper_parameters"]["run"]["data"]["white"] = 4095
    torch.save(content, tmp_path / "camera.ckpt")

    def score(name: str, images: Path, *arguments: str) -> str:
        out = tmp_path / name
        assert main(["explain", f"images={images}", f"out={out}", "pictures=false", *arguments]) == 0
        with (out / "explain.csv").open(newline="") as file:
            return next(row["score"] for row in csv.DictReader(file) if row["image"] == "a.png")

    expected = score("eight", pictures)
    assert score("typed", tmp_path / "camera", "+data.white=4095") == expected
    assert score("stored", tmp_path / "camera", f"ckpt={tmp_path / 'camera.ckpt'}") == expected
    assert score("range", tmp_path / "camera") != expected


def test_single_file_and_one_total_map(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["explain", f"images={pictures / 'a.png'}", f"out={out}", "attention=official"]) == 0
    assert np.load(out / "maps.npz")["a.png"].shape == (1, 64, 64)
    assert (out / "overlays" / "a_total.png").is_file()


def test_without_arguments_it_shows_example_sprites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain"]) == 0
    assert len(list(tmp_path.glob("outputs/explain/*/pictures/sprite*.png"))) == 6


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
        (["max_latents=0"], "max_latents must be at least 1"),
        (["latents=[]"], "latents must be a list of whole numbers"),
        (["latents=[a]"], "latents must hold whole numbers only"),
        (["latents=[-1]"], "out of range"),
        (["test_images=[]"], "test_images must be a list of whole numbers"),
        (["test_images=0", "images=x.png"], "images= and test_images= exclude each other"),
        (["latents=[3]", "attention=official"], "one map is of all latents"),
        (["++attention.latents=[3,5]", "latents=[4]"], "[4] are out of range, the maps are those of [3, 5]"),
        (["++attention.latents=[]"], "attention.latents must be a list of whole numbers"),
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
    assert "None of the 1 images could be judged" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "empty").mkdir()
    assert main(["explain", f"images={tmp_path / 'empty'}", f"out={tmp_path / 'out'}"]) == 1
    assert "holds no images" in capsys.readouterr().err


@pytest.mark.slow
def test_imports_no_lightning(tmp_path: Path) -> None:
    code = (
        "import sys; from vaex.cli import main; status = main(sys.argv[1:]);"
        "assert not {'lightning', 'torchmetrics'} & set(sys.modules), 'lightning'; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", f"out={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["explain", f"out={tmp_path / 'file' / 'below'}"]) == 1
    error = capsys.readouterr().err
    assert "Cannot write" in error
    assert "choose another folder" in error


def test_maps_of_some_latents_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third and the fifth latent, asked for in either order, are never taken for the first two."""
    import vaex.viz

    titles: list[list[str]] = []
    drawn = vaex.viz.attention_figure

    def figure(*arrays: Any, **options: Any) -> Any:
        titles.append(options["titles"][0])
        return drawn(*arrays, **options)

    monkeypatch.setattr(vaex.viz, "attention_figure", figure)
    sprite = example_sprites(1)[0]
    Image.fromarray(sprite * 255).save(tmp_path / "x.png")
    image = torch.from_numpy(sprite.astype("float32"))[None, None]
    model = vaex.load("sprites")
    stored = model.config["run"]["attention"]
    run = {key: value for key, value in stored.items() if key != "latents"}
    kl = vaex.explain(model, image, **run).kl
    assert kl is not None
    for named in ([3, 5], [5, 3]):
        out = tmp_path / f"out{named[0]}"
        titles.clear()
        arguments = [f"images={tmp_path / 'x.png'}", f"out={out}", f"++attention.latents={named}".replace(" ", "")]
        assert main(["explain", *arguments]) == 0
        assert {path.name for path in (out / "overlays").iterdir()} == {"x_z03.png", "x_z05.png"}
        with (out / "explain.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert [key for key in row if key.startswith("map_sum")] == [f"map_sum_{latent}" for latent in named]
        for latent in named:
            direct = latent_attention(model, image, latents=[latent], **run).sum()
            assert float(row[f"map_sum_{latent}"]) == pytest.approx(float(direct), rel=1e-4, abs=1e-5)
        expected = [f"z{latent}  KL {float(kl[0, latent]):.2f} nats" for latent in named]
        assert all(sorted(shown) == sorted(expected) for shown in titles)
        assert len(titles) == 2
    out = tmp_path / "one"
    arguments = [f"images={tmp_path / 'x.png'}", f"out={out}", "++attention.latents=[5,3]", "latents=3"]
    assert main(["explain", *arguments]) == 0
    assert titles[-1] == [f"z3  KL {float(kl[0, 3]):.2f} nats"]
    assert {path.name for path in (out / "overlays").iterdir()} == {"x_z03.png"}
    third = latent_attention(model, image, latents=[3], **run)[0, 0].numpy()
    np.testing.assert_allclose(np.load(out / "maps.npz")["x.png"][1], third, rtol=1e-4, atol=1e-6)


def test_a_single_map_of_one_latent_is_not_called_total(tmp_path: Path) -> None:
    assert main(["explain", f"out={tmp_path}", "++attention.latents=2"]) == 0
    assert {path.name[-7:] for path in (tmp_path / "overlays").iterdir()} == {"z02.png"}


def test_a_single_number_counts_as_a_list(tmp_path: Path) -> None:
    assert main(["explain", "test_images=0", "latents=3", f"out={tmp_path}"]) == 0
    assert {path.name for path in (tmp_path / "overlays").iterdir()} == {"test00000_z03.png"}


def test_pictures_do_not_overwrite_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub dir").mkdir(parents=True)
    names = ["overview.png", "plain.png", "plain.jpg", "Plain.bmp", "sub dir/plain.png", "sub dir__plain.png"]
    for name, sprite in zip(names, example_sprites(len(names)), strict=True):
        Image.fromarray(sprite * 255).save(folder / name)
    out = tmp_path / "out"
    assert main(["explain", f"images='{folder}'", f"out={out}", "latents=[1]"]) == 0
    written = [path.name.lower() for path in (out / "pictures").iterdir()]
    assert len(written) == len(set(written)) == len(names)
    assert len(list((out / "overlays").iterdir())) == len(names)
    assert set(np.load(out / "maps.npz").files) == set(names)
    overview, picture = (np.asarray(Image.open(path)) for path in (out / "overview.png", out / "pictures/overview.png"))
    assert overview.shape[0] > 3 * picture.shape[0]  # six rows against one


@pytest.mark.slow
def test_each_job_of_a_sweep_has_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    assert main(["explain", "-m", "latents=[1],[2]", f"out={tmp_path / 'out'}"]) == 0
    assert not list(cwd.iterdir())
    for job, latent in (("0", "z01"), ("1", "z02")):
        folder = tmp_path / "out" / job
        assert {path.stem[-3:] for path in (folder / "overlays").iterdir()} == {latent}
        assert (folder / "maps.npz").is_file()
    assert main(["explain", "-m", "latents=[1],[2]"]) == 0
    assert len(list(cwd.glob("outputs/explain/*"))) == 1
    assert len(list(cwd.glob("outputs/explain/*/[01]/explain.csv"))) == 2
    assert {path.name for path in cwd.iterdir()} == {"outputs"}


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(example_sprites(1)[0] * 255).save(tmp_path / "x.png")
    assert main(["explain", "images=~/x.png", "out=~/maps"]) == 0
    assert (tmp_path / "maps" / "pictures" / "x.png").is_file()
    assert main(["explain", "images='~/x.png'", "out='~/again'"]) == 0
    assert (tmp_path / "again" / "explain.csv").is_file()
    assert not (tmp_path / "~").exists()


def test_all_batches_show_the_same_latents(tmp_path: Path) -> None:
    assert main(["explain", f"out={tmp_path}", "max_latents=2", "batch_size=1"]) == 0
    shown: dict[str, set[str]] = {}
    for path in (tmp_path / "overlays").iterdir():
        name, _, latent = path.stem.rpartition("_")
        shown.setdefault(name, set()).add(latent)
    assert len(shown) == 6
    assert len(set(map(frozenset, shown.values()))) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_pass_that_is_stopped_keeps_what_it_has_done(
    number: signal.Signals,
    status: int,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    original = Pass._batch

    def stopped(self: Pass, *arguments: Any) -> None:
        os.kill(os.getpid(), number)
        original(self, *arguments)

    monkeypatch.setattr(Pass, "_batch", stopped)
    out = tmp_path / "out"
    assert main(["explain", f"images={pictures}", f"out={out}", "batch_size=2"]) == status
    told = capsys.readouterr()
    assert "2 images explained, 0 skipped." in told.out
    assert f"Stopped: 2 of 4 images were not looked at; to go on, repeat the command with out={out} resume" in told.out
    assert "Traceback" not in told.err
    with (out / "explain.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a.png", "b.jpg"]
    assert set(np.load(out / "maps.npz").files) == {"a.png", "b.jpg"}
    assert not list(out.glob(".*"))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_names_in_brackets_are_told_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    (folder / "cam[left]_1.png").write_bytes(b"no")
    (folder / "[red]b.png").write_bytes(b"no")
    assert main(["explain", f"images={folder}", f"out={out}"]) == 1
    told = capsys.readouterr().err.replace("\n", "")
    assert "None of the 2 images could be judged" in told
    for name in ("cam[left]_1.png", "[red]b.png"):
        assert f"{name} cannot be read" in told
    assert not (out / "explain.csv").exists()


@pytest.mark.slow
def test_results_of_an_earlier_pass_are_told_and_images_are_not_overwritten(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["explain", f"images={pictures}", f"out={out}", "pictures=false"]) == 0
    assert "earlier pass" not in capsys.readouterr().err
    (pictures / "broken.png").unlink()
    assert main(["explain", f"images={pictures}", f"out={out}", "pictures=false"]) == 0
    assert "holds results of an earlier pass: tables are replaced" in capsys.readouterr().err.replace("\n", " ")
    assert not (out / "skipped.csv").exists()
    inside = tmp_path / "pictures"
    pictures.rename(inside)
    assert main(["explain", f"images={inside}", f"out={tmp_path}"]) == 1
    assert f"Images lie in {inside}, where pictures of results are written" in capsys.readouterr().err
