"""UCSD Ped1 with drawn clips: labels by the .m file, masks of annotated clips alone, whole clips held out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaex.cli import main
from vaex.data import Ped1
from vaex.data.ped1 import frame_ranges
from vaex.data.records import SYNTHETIC
from vaex.errors import VaexError

Draw = Callable[..., Path]

LABELS = "TestVideoFile = {};\n" + "".join(
    f"TestVideoFile{{end+1}}.gt_frame = [{frames}];\n" for frames in ("2:3", "1, 4:5", "5")
)


@pytest.fixture
def clips(draw: Draw, tmp_path: Path) -> Path:
    """4 training clips and 3 test clips of 5 frames, 158 x 238 reduced to a tenth; clip 2 has masks."""
    for part, count in (("Train", 4), ("Test", 3)):
        for clip in range(1, count + 1):
            for frame in range(1, 6):
                generator = np.random.default_rng((clip, frame))
                pixels = generator.integers(0, 256, (16, 24), dtype=np.uint8)
                draw(f"UCSD/{part}/{part}{clip:03d}/{frame:03d}.tif", pixels)
    for frame in range(1, 6):
        mask = np.zeros((16, 24), dtype=np.uint8)
        mask[4:8, 4:12] = 255 * (frame in (1, 4, 5))
        draw(f"UCSD/Test/Test002_gt/{frame:03d}.bmp", mask)
    (tmp_path / "UCSD/Test/UCSDped1.m").write_text(LABELS)
    (tmp_path / "UCSD/Test/Test001/.DS_Store").write_bytes(b"")
    (tmp_path / "UCSD/Test/Test001/._001.tif").write_bytes(b"no image")
    return tmp_path


def ready(clips: Path, **options: Any) -> Ped1:
    data = Ped1(str(clips), **{"folder": "UCSD", "size": 16, **options})
    data.prepare_data()
    data.setup()
    return data


def test_frames_in_tiles(clips: Path) -> None:
    """Normal frames have masks, too."""
    data = ready(clips, tile=12, overlap=0)
    batch = data.test_set.__getitems__(list(range(len(data.test_set))))
    shows, nothing = [1, 0, 1, 0], [0, 0, 0, 0]
    assert batch["label"].tolist() == [*shows, *nothing, *nothing, *shows, *shows]
    assert batch["mask"].flatten(1).any(1).long().tolist() == batch["label"].tolist()
    with pytest.raises(VaexError, match=r"Test001/002\.tif is anomalous and has no mask"):
        ready(clips, tile=12, overlap=0, test_clips="all")


def test_annotated_clips_are_tested_by_pixel(clips: Path) -> None:
    data = ready(clips)
    assert data.shape == (1, 16, 16)
    assert data.group_names == ("good", "anomalous", *SYNTHETIC)
    batch = data.test_set.__getitems__(list(range(len(data.test_set))))
    assert {record.path.parent.name for record in data.test_set.records} == {"Test002"}
    assert batch["label"].tolist() == [1, 0, 0, 1, 1]
    assert batch["group"].tolist() == [1, 0, 0, 1, 1]
    assert batch["mask"].flatten(1).any(1).tolist() == [True, False, False, True, True]


def test_all_clips_are_tested_by_frame(clips: Path) -> None:
    data = ready(clips, test_clips="all")
    batch = data.test_set.__getitems__(list(range(15)))
    assert len(data.test_set) == 15
    assert "mask" not in batch
    assert batch["label"].view(3, 5).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 1, 1], [0, 0, 0, 0, 1]]


def test_whole_clips_are_held_out(clips: Path) -> None:
    for seed in range(3):
        data = ready(clips, val_fraction=0.3, seed=seed)
        homes = [{r.path.parent.name for r in data.records if r.split == split} for split in ("train", "val")]
        assert (len(homes[0]), len(homes[1])) == (3, 1)
        assert not homes[0] & homes[1]
        assert len(data.val_set) == 10


def test_of_one_clip_the_last_frames_are_held_out(clips: Path) -> None:
    for clip in (2, 3, 4):
        shutil.rmtree(clips / f"UCSD/Train/Train{clip:03d}")
    data = ready(clips, val_fraction=0.4)
    assert [(r.path.stem, r.split) for r in data.records if r.split != "test"] == [
        *[(f"{frame:03d}", "train") for frame in (1, 2, 3)],
        *[(f"{frame:03d}", "val") for frame in (4, 5)],
    ]


def test_what_is_missing_is_told(clips: Path) -> None:
    with pytest.raises(VaexError, match=r"Unknown data\.test_clips 'al': did you mean 'all'"):
        Ped1(test_clips="al")
    (clips / "UCSD/Test/UCSDped1.m").write_text("\n".join(LABELS.splitlines()[:2]))
    with pytest.raises(VaexError, match=r"UCSDped1\.m labels 1 clips, but there is a clip 2"):
        ready(clips)
    (clips / "UCSD/Test/UCSDped1.m").write_text(LABELS)
    (clips / "UCSD/Test/Test002_gt/004.bmp").unlink()
    with pytest.raises(VaexError, match=r"Test002/004\.tif has no mask .*Test002_gt/004\.bmp"):
        ready(clips)
    shutil.rmtree(clips / "UCSD/Test/Test002_gt")
    with pytest.raises(VaexError, match=r"No test clip .* has masks.*data\.test_clips=all"):
        ready(clips)
    (clips / "UCSD/Train/Train001/cover.tif").write_bytes(b"")
    with pytest.raises(VaexError, match=r"cover\.tif is not named by the number of its frame"):
        ready(clips)
    shutil.rmtree(clips / "UCSD/Train")
    with pytest.raises(VaexError, match=r"(?s)no frames in .*UCSD/Train; .*expected is.*Test003_gt/001\.bmp"):
        ready(clips)
    (clips / "UCSD/Test/UCSDped1.m").unlink()
    with pytest.raises(VaexError, match=r"Cannot read .*UCSDped1\.m"):
        frame_ranges(clips / "UCSD/Test/UCSDped1.m")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("TestVideoFile{end+1}.gt_frame = [60:152];", [(60, 152)]),
        ("TestVideoFile{end+1}.gt_frame = [5:90, 140:200];", [(5, 90), (140, 200)]),
        ("TestVideoFile{end+1}.gt_frame=[ 5 : 90  140:200 , 7 ]", [(5, 90), (140, 200), (7, 7)]),
        ("TestVideoFile{end+1}.gt_frame = [];", []),
    ],
)
def test_ranges_of_frames(line: str, expected: list[tuple[int, int]], tmp_path: Path) -> None:
    file = tmp_path / "UCSDped1.m"
    file.write_text(f"% gt_frame = [1:2];\nTestVideoFile = {{}};\n{line}\n")
    assert frame_ranges(file) == [expected]


@pytest.mark.parametrize("value", ["60:152", "[60:]", "[a:b]", "[1:2:3]"])
def test_a_line_that_is_not_understood_is_named(value: str, tmp_path: Path) -> None:
    (tmp_path / "x.m").write_text(f"\nTestVideoFile{{end+1}}.gt_frame = {value};\n")
    with pytest.raises(VaexError, match=r"x\.m, line 2: expected gt_frame"):
        frame_ranges(tmp_path / "x.m")


def test_the_paper_s_set_up_runs(clips: Path, tmp_path: Path) -> None:
    small = ["data.size=32", "network.width=4", "network.hidden=16", "network.latents=3", "data.folder=UCSD"]
    short = ["trainer.max_epochs=1", "logger=none", f"paths.run={tmp_path}/run", f"paths.data={clips}"]
    assert main(["train", "experiment=ped1_paper", *small, *short]) == 0
    test = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    assert 0 <= test["pixel_auroc"] <= 1
    assert 0 <= test["pixel_auroc_reconstruction"] <= 1  # the baseline of the paper's table, beside the attention
