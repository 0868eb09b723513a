"""A pass of `vaex explain` that was interrupted and resumed leaves what one without interruption does."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vaex.build import read_checkpoint
from vaex.cli import main
from vaex.commands import alone
from vaex.commands.explain_pass import Pass
from vaex.data.render import example_sprites

NAMES = ["a.jpg", "a.png", "'quoted.png", "-minus.png", "=formula.png", "sub/a.png", "y.png", "z.png"]
SETTINGS = ["score=reconstruction", "score.pool=max", "threshold=0.6", "latents=[0,2]", "batch_size=2"]


def draw(folder: Path, *names: str) -> None:
    """Save an image for each name; which one depends on the name alone."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(example_sprites(sum(name.encode()) % 12 + 1)[-1] * 255).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw(tmp_path / "images", *NAMES)
    (tmp_path / "images" / "broken.png").write_bytes(b"not an image")
    return tmp_path / "images"


def explain(images: Path, out: Path, *more: str) -> int:
    return main(["explain", f"images={images}", f"out={out}", *SETTINGS, *more])


def explain_until(monkeypatch: pytest.MonkeyPatch, batch: int, images: Path, out: Path, *more: str) -> None:
    """Let Ctrl-C come in the given batch, counted from 1."""
    original, begun = Pass._batch, [0]

    def stopped(self: Pass, *arguments: Any) -> None:
        begun[0] += 1
        if begun[0] == batch:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Pass, "_batch", stopped)
        assert explain(images, out, *more) == 130


def content(out: Path, *leave_out: str) -> dict[str, Any]:
    """Return all files below ``out``: their bytes, of archives the names and bytes of the members in their order."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name in leave_out:
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                found[name] = [(member, archive.read(member)) for member in archive.namelist()]
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SLOW = pytest.mark.slow  # pictures take their time


@pytest.mark.parametrize("pictures", ["false", pytest.param("true", marks=SLOW), pytest.param("anomalous", marks=SLOW)])
def test_interrupted_twice_and_resumed_is_as_uninterrupted(
    pictures: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out, chosen = tmp_path / "whole", tmp_path / "out", f"pictures={pictures}"
    assert explain(images, whole, chosen) == 0
    told = capsys.readouterr()
    explain_until(monkeypatch, 1, images, out, chosen)
    assert len(rows(out / "explain.csv")) == 2
    explain_until(monkeypatch, 2, images, out, chosen, "resume=true")
    said = capsys.readouterr()
    assert "6 images explained, 2 of them before and 4 now, 1 skipped." in said.out
    assert "Stopped: 2 of 9 images were not looked at; to go on, repeat the command with out=" in said.out
    assert explain(images, out, chosen, "resume=true") == 0
    said = capsys.readouterr()
    assert "Resuming in " in said.out
    assert "6 of 9 images are there" in said.out
    assert "8 images explained, 6 of them before and 2 now, 1 skipped." in said.out
    expected = content(whole)
    decided = [row["decision"] for row in rows(whole / "explain.csv")]
    assert content(out) == expected
    drawn = {"false": 0, "true": 8, "anomalous": decided.count("anomalous")}[pictures]
    assert len([name for name in expected if name.startswith("pictures/")]) == drawn
    assert 4 < decided.count("anomalous") < 8
    for line in (
        f"{decided.count('anomalous')} anomalous, ",
        f"{decided.count('anomalous')} of 8 images are anomalous",
    ):
        assert line in told.out + told.err
        assert line in said.out + said.err  # of all scores, not of the last two
    assert explain(images, out, chosen, "resume=true") == 0  # nothing is left but the broken one
    assert "8 images explained, 8 of them before and 0 now, 1 skipped." in capsys.readouterr().out
    assert content(out) == expected


@pytest.mark.parametrize("pictures", ["false", pytest.param("true", marks=SLOW)])
def test_images_mended_added_removed_and_renumbered_meanwhile(
    pictures: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of one, so that numbers are the same whatever stands beside an image."""
    out, more = tmp_path / "out", [f"pictures={pictures}", "batch_size=1"]
    explain_until(monkeypatch, 6, images, out, *more)
    assert [row["image"] for row in rows(out / "skipped.csv")] == ["broken.png"]
    assert (out / "pictures" / "a_2.png").is_file() == (pictures == "true")  # of a.png, beside a.jpg
    draw(images, "broken.png", "0.png", "b.png")
    (images / "a.jpg").unlink()  # its picture has the name that the one of a.png takes
    (images / "-minus.png").unlink()
    capsys.readouterr()
    assert explain(images, out, *more, "resume=true") == 0
    assert "9 images explained, 3 of them before and 6 now, 0 skipped." in capsys.readouterr().out
    assert explain(images, tmp_path / "whole", *more) == 0
    left_out = ("overview.png",)  # shows the images that the first pass began with
    assert content(out, *left_out) == content(tmp_path / "whole", *left_out)


@pytest.mark.slow
def test_maps_of_mended_images_stand_in_their_order(images: Path, tmp_path: Path) -> None:
    """Also where one batch holds images from before and behind those that are there."""
    for file in images.rglob("*.*"):
        file.unlink()
    out, names = tmp_path / "out", ["a.png", "b.png", "c.png", "d.png"]
    draw(images, "b.png", "d.png")
    for broken in ("a.png", "c.png"):
        (images / broken).write_bytes(b"not an image")
    assert explain(images, out, "batch_size=4") == 0
    draw(images, "a.png", "c.png")
    assert explain(images, out, "batch_size=4", "resume=true") == 0
    for store in ("maps.npz", "score_maps.npz"):
        with zipfile.ZipFile(out / store) as archive:
            assert archive.namelist() == [f"{name}.npy" for name in names]
    assert [row["image"] for row in rows(out / "explain.csv")] == names


def test_what_is_not_tried_yet_stays_among_the_skipped(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (images / "zz.png").write_bytes(b"not an image")
    assert explain(images, out, "pictures=false") == 0
    draw(images, "0.png")
    explain_until(monkeypatch, 1, images, out, "pictures=false", "resume=true", "batch_size=1")
    assert [row["image"] for row in rows(out / "skipped.csv")] == ["broken.png", "zz.png"]
    assert rows(out / "explain.csv")[-1]["image"] == "z.png"
    draw(images, "broken.png", "zz.png")
    assert explain(images, out, "pictures=false", "resume=true") == 0
    assert not (out / "skipped.csv").exists()
    assert [row["image"] for row in rows(out / "explain.csv")][-2:] == ["z.png", "zz.png"]


def test_a_finished_pass_has_nothing_left(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (images / "broken.png").unlink()
    assert explain(images, out, "pictures=false") == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(Pass, "_batch", None)  # nothing is looked at
    assert explain(images, out, "pictures=false", "resume=true") == 0
    assert "8 images explained, 8 of them before and 0 now, 0 skipped." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@SLOW
def test_what_was_deleted_is_made_again(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    draw(images, "a.png", "y.png", "z.png")
    assert explain(images, out, "pictures=true", "batch_size=1") == 0
    expected = content(out)
    (out / "decisions" / "z.png").unlink()
    (out / "overlays" / "y_z02.png").unlink()
    assert explain(images, out, "pictures=true", "batch_size=1", "resume=true") == 0
    assert content(out) == expected


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, out/ by the settings below, mask.png and other.ckpt."""
    place = tmp_path_factory.mktemp("stopped")
    draw(place / "images", *NAMES)
    draw(place / "others", *NAMES)
    Image.new("L", (64, 64), 255).save(place / "mask.png")
    checkpoint = read_checkpoint("sprites")
    checkpoint["state_dict"] = {key: value.float() * 1.001 for key, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, place / "other.ckpt")
    checkpoint = read_checkpoint("sprites")
    checkpoint["calibration"] = {"normal_scores": {"some": torch.ones(3)}}
    torch.save(checkpoint, place / "calibrated.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        explain_until(patch, 1, place / "images", place / "out", "pictures=false", f"roi={place / 'mask.png'}")
    return place


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["threshold=0.7"], "threshold was 0.6 and is 0.7"),
        (["pixel_threshold=0.5"], "pixel_threshold was 0.6 and is 0.5"),
        (["score.pool=sum", "pixel_threshold=0.6"], '"pool": "max"'),
        (["roi=[0,0,32,32]"], "mask.png (sha256 "),
        (["min_area=5"], "min_area was 0 and is 5"),
        (["tile=64", "batch_size=1"], "tile was null and is 64; overlap was null and is 32"),
        (["attention.target=kl"], '"target": "kl"'),
        (["pictures=true"], "pictures was false and is true; latents was null and is [0, 2]"),
        (["images={place}/others"], "/images and is "),
        (["images=null", "test_images=[0,1]"], "of the test set"),
        (["+data.white=200"], "data.white was null and is 200"),
        (["ckpt={place}/other.ckpt"], "settings: weights was "),
        (["ckpt={place}/calibrated.ckpt"], "settings: calibration was "),
    ],
)
def test_other_settings_are_refused(
    more: list[str], expected: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(stopped / "out")
    arguments = [f"roi={stopped / 'mask.png'}", "pictures=false", "resume=true"]
    more = [argument.replace("{place}", str(stopped)) for argument in more]
    given = {argument.partition("=")[0] for argument in more}
    base = [f"images={stopped / 'images'}", f"out={stopped / 'out'}", *SETTINGS, *arguments]
    kept = [argument for argument in base if argument.partition("=")[0] not in given]
    assert main(["explain", *kept, *more]) == 1
    error = capsys.readouterr().err
    assert f"Cannot resume the pass in {stopped / 'out'}, which was made with other settings: " in error
    assert expected in error
    assert "Repeat its own, or choose another out=" in error
    assert error.count("\n") == 1
    assert content(stopped / "out") == before


def test_the_content_of_a_mask_counts_and_the_device_and_batch_do_not(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"roi={stopped / 'mask.png'}", "pictures=false", "resume=true"]
    Image.new("L", (64, 64), 255).save(stopped / "mask.png")
    assert explain(stopped / "images", stopped / "out", *arguments, "batch_size=3", "device=cpu") == 0
    half = Image.new("L", (64, 64), 255)
    half.paste(0, (0, 0, 32, 64))
    half.save(stopped / "mask.png")
    assert explain(stopped / "images", stopped / "out", *arguments) == 1
    assert "roi was " in capsys.readouterr().err
    Image.new("L", (64, 64), 255).save(stopped / "mask.png")


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({}, "holds no pass that can go on (no explain.json); check out=, or leave resume out"),
        ({"explain.csv": "image,score\n"}, "holds no pass that can go on (no explain.json)"),
        ({"explain.json": "{"}, "explain.json cannot be read"),
        ({"explain.json": "[]"}, "explain.json cannot be read"),
    ],
)
def test_nothing_to_resume(
    left: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, text in left.items():
        (out / name).write_text(text)
    assert main(["explain", f"out={out}", "pictures=false", "resume=true"]) == 1
    error = capsys.readouterr().err
    assert "Cannot resume: " in error
    assert expected in error
    assert {path.name: path.read_text() for path in out.iterdir()} == left
    assert main(["explain", f"out={out}", f"resume={out}"]) == 1
    assert "resume must be true or false" in capsys.readouterr().err


def test_damaged_results_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    draw(images, "a.png", "y.png")
    assert explain(images, out, "pictures=anomalous") == 0
    draw(images, "zz.png")
    for name, cut in (("regions.json", 100), ("maps.npz", 1000), ("score_maps.npz", 1000)):
        file = out / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-cut])
        capsys.readouterr()
        assert explain(images, out, "pictures=anomalous", "resume=true") == 1
        assert "were changed or damaged" in capsys.readouterr().err
        file.write_bytes(whole)


def test_no_file_of_another_folder_is_removed(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names in explain.json may be anybody's; the picture of an image that is gone is removed by its name."""
    out, witness = tmp_path / "out", tmp_path / "witness.png"
    assert explain(images, out, "pictures=anomalous") == 0
    witness.write_bytes(b"x")
    kept = json.loads((out / "explain.json").read_text())
    (out / "explain.json").write_text(json.dumps({**kept, "stems": {"y.png": "../../witness"}}))
    (images / "y.png").unlink()
    assert explain(images, out, "pictures=anomalous", "resume=true") == 1
    assert "names a file of another folder" in capsys.readouterr().err
    assert witness.exists()


def test_a_new_pass_over_an_old_one_is_not_resumed_as_the_old_one(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed half-way it has drawn over pictures of the pass whose tables still stand."""
    out = tmp_path / "out"
    assert explain(images, out, "pictures=false") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Pass, "_batch", lambda *arguments: 1 / 0)
        assert explain(images, out, "pictures=false", "threshold=0.1") == 1
    assert (out / "explain.csv").is_file()
    for threshold in ("threshold=0.1", "threshold=0.6"):
        assert explain(images, out, "pictures=false", threshold, "resume=true") == 1
        assert "holds no pass that can go on" in capsys.readouterr().err


def test_results_below_the_images_are_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where they lie beside the images themselves; what is no picture of a pass stays an image."""
    images = tmp_path / "images"
    draw(images, "a.png", "sub/b.png")
    outs = [images, images / "today" / "one", images / "today" / "two"]
    counts = []
    for out in outs:
        before = [name for name in images.rglob("*.png") if name.parent.name in ("decisions", "pictures", "overlays")]
        before += list(images.rglob("overview.png"))
        assert explain(images, out, "pictures=true") == 0
        assert [row["image"] for row in rows(out / "explain.csv")] == ["a.png", "sub/b.png"]
        error = capsys.readouterr().err
        counts.append(len(before))
        assert (f"{len(before)} pictures of earlier passes are no images to look at" in error) == bool(before)
    assert counts[0] == 0 < counts[1] < counts[2]
    draw(images, "today/one/overview_of_all.png", "pictures/mine.jpg")
    (images / "explain.json").unlink()  # without it they are images of somebody's
    assert explain(images, images / "today" / "three", "pictures=false") == 0
    names = {row["image"] for row in rows(images / "today" / "three" / "explain.csv")}
    assert {"today/one/overview_of_all.png", "pictures/mine.jpg", "overview.png"} <= names
    assert not {name for name in names if name.startswith("today/") and "overview_of_all" not in name}


def test_a_folder_of_results_alone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "images", "a.png")
    assert explain(tmp_path / "images", tmp_path / "out", "pictures=true") == 0
    assert explain(tmp_path / "out", tmp_path / "again") == 1
    assert "holds no images but pictures of earlier passes" in capsys.readouterr().err


def test_what_cannot_be_judged_well_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link that leads nowhere is skipped with its reason, tiny images are named; Pillow warns of none."""
    images = tmp_path / "images"
    draw(images, "a.png")
    (images / "gone.png").symlink_to("nowhere.png")
    Image.new("L", (700, 3)).save(images / "line.png")
    Image.new("L", (1, 1)).save(images / "[red]dot.png")
    Image.new("L", (90, 8)).save(images / "whole.png")  # an eighth of 64
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # a.png has more, and less than twice as many
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert explain(images, tmp_path / "out", "pictures=false") == 0
    assert not [warning for warning in told if "bomb" in str(warning.message)]
    assert [row["image"] for row in rows(tmp_path / "out" / "skipped.csv")] == ["gone.png"]
    error = capsys.readouterr().err
    assert "2 images are less than 1/8 as high or wide as the model takes them" in error
    assert "[red]dot.png (1x1) ..." in error


def test_two_passes_do_not_share_a_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(alone, "WAIT", 0.0)
    with alone.alone_in(out):
        assert explain(images, out, "pictures=false") == 1
    assert f"Another process explains images in {out}; wait for it" in capsys.readouterr().err
    assert not list(out.iterdir())


@pytest.mark.slow
def test_jobs_of_a_sweep_go_on_or_begin(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "out", ["-m", "pictures=false", "min_area=0,3"]
    explain_until(monkeypatch, 2, images, out, *more)
    assert f"repeat the command with out={out} resume=true" in capsys.readouterr().err
    assert not (out / "1").exists()
    assert explain(images, out, *more, "resume=true") == 0
    for job, area in (("0", 0), ("1", 3)):
        assert explain(images, tmp_path / job, "pictures=false", f"min_area={area}") == 0
        assert content(out / job) == content(tmp_path / job)


@pytest.mark.slow
def test_killed_then_stopped_by_signals_then_resumed(tmp_path: Path) -> None:
    """The program itself: SIGKILL leaves no table, SIGINT and SIGTERM leave what was done."""
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    names = [f"{number:02d}.png" for number in range(24)]
    draw(images, *names)
    more = ["pictures=true"]
    assert explain(images, whole, *more) == 0
    program = [sys.executable, "-m", "vaex", "explain", f"images={images}", f"out={out}", *SETTINGS, *more]
    done = 0
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        resumed = ["resume=true"] if out.exists() else []
        told = tmp_path / "told"
        with told.open("w") as file:
            running = subprocess.Popen([*program, *resumed], stdout=file, stderr=subprocess.STDOUT)
        began, deadline = time.time_ns(), time.monotonic() + 120
        while time.monotonic() < deadline and running.poll() is None:
            drawn = list((out / "pictures").glob("[0-9]*.png"))
            if any(path.stat().st_mtime_ns > began for path in drawn):
                break
            time.sleep(0.01)
        running.send_signal(number)
        assert running.wait(timeout=60) == status, told.read_text()
        assert "Traceback" not in told.read_text()
        if number == signal.SIGKILL:
            assert not (out / "explain.csv").exists()
            assert (out / "explain.json").is_file()
            continue
        assert "to go on, repeat the command with" in told.read_text()
        found = len(rows(out / "explain.csv"))
        assert done < found < len(names)
        done = found
    assert explain(images, out, *more, "resume=true") == 0
    assert content(out) == content(whole)
