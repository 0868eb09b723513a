"""UCSD Ped1: frames of a walkway, normal clips to train on, clips with carts and bicycles to test on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.data.images import images_in
from vaex.data.recorded import RecordedImages
from vaex.data.records import ANOMALOUS, GOOD, Record, hold_out
from vaex.errors import VaexError, unknown

CLIPS = ("annotated", "all")

TREE = """{folder}/
  Train/Train001/001.tif ...     34 clips of normal frames
  Test/Test001/001.tif ...       36 clips
  Test/Test003_gt/001.bmp ...    masks of ten of them
  Test/UCSDped1.m                which frames are anomalous"""


class Ped1(RecordedImages):
    """Frames of UCSD Ped1, each an image: trained on the normal clips, tested by pixel or by frame.

    ```python
    data = vaex.data.Ped1("data", size=100)  # data/UCSD_Anomaly_Dataset.v1p2/UCSDped1/Train/Train001/001.tif ...
    data.prepare_data()
    data.setup()
    batch = next(iter(data.test_dataloader()))  # image (B, 1, 100, 100), mask, label, group, index
    ```

    Only ten test clips have masks. ``test_clips="annotated"``, the default, tests on those alone, so that pixel metrics
    are of pixels that somebody marked; ``"all"`` tests on all clips by the labels of their frames, and no test batch
    has a ``mask``. Whole clips are held out for validation, for neighbouring frames are nearly the same; of a single
    training clip, its last frames.

    Args:
        root: folder that ``folder`` lies in; ``${paths.data}`` in the configuration.
        folder: folder of Train and Test below ``root``.
        test_clips: ``annotated`` or ``all``.
        size: pixels of height and width that the frames of 238 x 158 are stretched to. This and the remaining arguments
            are those of `RecordedImages`.

    Raises:
        VaexError: when the frames are missing (the expected tree is told), the file of labels does not cover a clip, a
            mask is missing, or a file cannot be read.

    Source: V. Mahadevan, W. Li, V. Bhalodia, N. Vasconcelos, CVPR 2010. Frames of 100 x 100: W. Liu et al.,
        arXiv:1911.07389, as two reproductions have it.
    """

    def __init__(
        self,
        root: str = "data",
        folder: str = "UCSD_Anomaly_Dataset.v1p2/UCSDped1",
        test_clips: str = "annotated",
        size: int = 100,
        channels: int = 1,
        val_fraction: float = 0.1,
        synthetic: bool = True,
        pasted: int = 0,
        recipe: Mapping[str, Any] | None = None,
        cache: str = "memory",
        cache_dir: str | None = None,
        augmentation: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        white: float | None = None,
        tile: int | None = None,
        overlap: int = 32,
    ) -> None:
        if test_clips not in CLIPS:
            raise unknown("data.test_clips", test_clips, CLIPS)
        self.test_clips = test_clips
        super().__init__(
            Path(root) / folder,
            size=size,
            channels=channels,
            val_fraction=val_fraction,
            synthetic=synthetic,
            pasted=pasted,
            recipe=recipe,
            cache=cache,
            cache_dir=cache_dir,
            augmentation=augmentation,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=drop_last,
            seed=seed,
            white=white,
            tile=tile,
            overlap=overlap,
        )

    def find_records(self) -> Sequence[Record]:
        """List the frames of all training clips and of the test clips chosen."""
        records = self._training(self._clips("Train"))
        folder = self.root / "Test"
        ranges = frame_ranges(folder / "UCSDped1.m")
        for number, frames in self._clips("Test").items():
            masks = {file.stem: file for file in images_in(folder / f"Test{number:03d}_gt")}
            if self.test_clips == "annotated" and not masks:
                continue
            if number > len(ranges):
                raise VaexError(f"{folder / 'UCSDped1.m'} labels {len(ranges)} clips, but there is a clip {number}.")
            for file in frames:
                label = int(any(first <= _number(file) <= last for first, last in ranges[number - 1]))
                mask = masks.get(file.stem) if self.test_clips == "annotated" else None
                if mask is None and self.test_clips == "annotated":
                    raise VaexError(f"{file} has no mask {folder / f'Test{number:03d}_gt' / file.stem}.bmp; add it.")
                records.append(Record(file, "test", label, ANOMALOUS if label else GOOD, mask))
        if not any(record.split == "test" for record in records):
            raise VaexError(
                f"No test clip in {folder} has masks; add its folder TestNNN_gt, or set data.test_clips=all."
            )
        return records

    def _training(self, clips: Mapping[int, list[Path]]) -> list[Record]:
        """Return the training frames, with whole clips held out for validation."""
        numbers = sorted(clips)
        if len(numbers) > 1:
            held_out = set(hold_out(numbers, self.val_fraction, self.seed)[1])
            splits = {n: "val" if n in held_out else "train" for n in numbers}
            return [Record(file, splits[n], 0, GOOD) for n in numbers for file in clips[n]]
        frames = clips[numbers[0]]
        first = len(frames) - min(max(round(len(frames) * self.val_fraction), 1), len(frames) - 1)
        return [Record(file, "val" if i >= first else "train", 0, GOOD) for i, file in enumerate(frames)]

    def _clips(self, part: str) -> dict[int, list[Path]]:
        folder = self.root / part
        found = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if (match := re.fullmatch(rf"{part}(\d+)", path.name)) and (frames := images_in(path)):
                found[int(match.group(1))] = sorted(frames, key=_number)
        if not found:
            raise VaexError(
                f"There are no frames in {folder}; unpack UCSD_Anomaly_Dataset.tar.gz from "
                "http://www.svcl.ucsd.edu/projects/anomaly/dataset.html there; expected is\n"
                + TREE.format(folder=self.root)
            )
        return found


def frame_ranges(file: Path) -> list[list[tuple[int, int]]]:
    """Return for each test clip the anomalous frames, pairs of first and last, counted from 1, out of UCSDped1.m.

    Raises:
        VaexError: when the file is missing, or a line of it is not understood.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise VaexError(f"Cannot read {file} ({error.strerror or error}); it labels the frames of the test.") from error
    clips = []
    for number, line in enumerate(lines, 1):
        if "gt_frame" not in line.partition("%")[0]:
            continue
        pairs = _pairs(line)
        if pairs is None:
            got = line.strip()[:80]
            raise VaexError(f"{file}, line {number}: expected gt_frame = [60:152, ...], got '{got}'.")
        clips.append(pairs)
    return clips


def _pairs(line: str) -> list[tuple[int, int]] | None:
    """Return the ranges of a line, None where it is not understood."""
    match = re.search(r"gt_frame\s*=\s*\[([\d:,\s]*)\]", line, re.ASCII)
    if match is None:
        return None
    parts = [part for part in re.split(r"[,\s]+", re.sub(r" *: *", ":", " ".join(match.group(1).split()))) if part]
    if not all(re.fullmatch(r"\d{1,9}(:\d{1,9})?", part, re.ASCII) for part in parts):
        return None
    bounds = [[int(text) for text in part.split(":")] for part in parts]
    return [(pair[0], pair[-1]) for pair in bounds] if all(pair[0] <= pair[-1] for pair in bounds) else None


def _number(file: Path) -> int:
    match = re.search(r"\d+", file.stem)
    if match is None:
        raise VaexError(f"{file} is not named by the number of its frame, such as 001.tif; rename it or remove it.")
    return int(match.group())
