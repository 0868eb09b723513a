"""metrics.csv over crashes, interrupts and resumes: every row once, none lost."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor

from tests.callbacks.conftest import BATCHES, SmallFit, Watch
from vaex.callbacks.history import RunCSVLogger, rows_before
from vaex.errors import VaexError
from vaex.runs import write_atomic

Rows = list[dict[str, str]]


def table(folder: Path) -> Rows:
    """Rows of a metrics.csv without their empty cells, in their order."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if cell != ""} for row in csv.DictReader(file)]


def quoted(rows: list[Mapping[str, Any]], header: list[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=header)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def logged(folder: Path, until: int | None, *rows: tuple[int, dict[str, Any]]) -> Rows:
    """Log rows as one session does, and return the file."""
    logger = RunCSVLogger(str(folder))
    if until is not None:
        logger.keep_until(until)
    for step, values in rows:
        logger.log_metrics(values, step)
        logger.save()
    logger.finalize("success")
    return table(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "stopped"),
    [
        (1, {"kill_at": 1}),
        (1, {"kill_at": BATCHES - 1}),
        (1, {"kill_at": BATCHES}),
        (4, {"kill_at": BATCHES + 3}),
        (4, {"kill_at": 3 * BATCHES - 1}),
        (9, {"kill_at": 2}),
        (9, {"signal_at": ("batch", BATCHES + 2), "numbers": (signal.SIGTERM,)}),
        (9, {"signal_at": ("batch", BATCHES - 1), "numbers": (signal.SIGINT,)}),
        (9, {"signal_at": ("validation", BATCHES), "numbers": (signal.SIGINT,)}),
    ],
)
def test_a_resumed_run_has_the_history_of_one_left_alone(
    small_fit: SmallFit, tmp_path: Path, every: int, stopped: dict[str, Any]
) -> None:
    class EndOfEpoch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.log("train/epochs", float(trainer.current_epoch))

    def session(folder: Path, resume: Path | None = None, watch: Watch | None = None) -> None:
        logger = RunCSVLogger(str(folder))
        if resume is not None:
            logger.keep_until(torch.load(resume, weights_only=True)["global_step"])
        small_fit(
            folder / "last.ckpt",
            resume=resume,
            every=every,
            watch=watch,
            callbacks=[LearningRateMonitor("step"), EndOfEpoch()],
            logger=logger,
            log_every_n_steps=1,
        )

    session(tmp_path / "whole")
    session(tmp_path / "parts", watch=Watch(**stopped))
    checkpoint = tmp_path / "parts" / "last.ckpt"
    if checkpoint.exists():
        session(tmp_path / "parts", resume=checkpoint)
    else:  # it died before the first checkpoint
        assert (every, stopped) == (9, {"kill_at": 2})
        session(tmp_path / "parts")
    whole = table(tmp_path / "whole")
    assert sum("val/loss" in row for row in whole) == 3
    assert sum("train/loss" in row for row in whole) == 3 * BATCHES
    assert table(tmp_path / "parts") == whole


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    logged(tmp_path, None, (0, {"a": 1}), (1, {"a": 2}))
    assert logged(tmp_path, None, (0, {"b": 3})) == [{"b": "3", "step": "0"}]


def test_rows_of_steps_behind_the_checkpoint_go(tmp_path: Path) -> None:
    logged(tmp_path, None, *((step, {"a": step}) for step in range(10)))
    rows = logged(tmp_path, 4, (4, {"a": 40}), (5, {"a": 50}))
    assert rows == [
        {"a": cell, "step": step} for step, cell in zip("012345", ["0", "1", "2", "3", "40", "50"], strict=True)
    ]


def test_a_row_that_is_written_again_replaces_the_older_one(tmp_path: Path) -> None:
    """Two optimiser steps a batch: the checkpoint counts 8 steps, the rows 4 batches."""
    logged(tmp_path, None, *((step, {"a": step}) for step in range(6)))
    rows = logged(tmp_path, 8, (4, {"a": 40}), (4, {"b": 41}), (5, {"a": 50}))
    assert [(row["step"], row.get("a"), row.get("b")) for row in rows] == [
        *((str(i), str(i), None) for i in range(4)),
        ("4", "40", None),
        ("4", None, "41"),
        ("5", "50", None),
    ]


def test_a_resume_that_logs_nothing_keeps_the_history(tmp_path: Path) -> None:
    before = logged(tmp_path, None, (0, {"a": 1}), (1, {"a": 2}))
    assert logged(tmp_path, 2) == before


def test_a_resume_without_a_history_starts_one(tmp_path: Path) -> None:
    assert logged(tmp_path, 5, (5, {"a": 1})) == [{"a": "1", "step": "5"}]
    (tmp_path / "metrics.csv").write_bytes(b"")
    assert logged(tmp_path, 6, (6, {"a": 2})) == [{"a": "2", "step": "6"}]


def test_new_columns_keep_the_older_rows(tmp_path: Path) -> None:
    logged(tmp_path, None, (0, {"a": 1}))
    rows = logged(tmp_path, 1, (1, {"zz": 2}), (2, {"a": 3, "aa": 4}))
    assert rows == [
        {"a": "1", "step": "0"},
        {"step": "1", "zz": "2"},
        {"a": "3", "aa": "4", "step": "2"},
    ]


AWKWARD = {
    "name, quoted": 'a "quoted", comma',
    "two\nlines": "first\nsecond,\r\nthird",
    "plain": "1.5",
    "umlaut ä": "ö",
    "step": "0",
}


def test_quotes_commas_and_line_breaks_survive_a_resume(tmp_path: Path) -> None:
    header = list(AWKWARD)
    write_atomic(tmp_path / "metrics.csv", quoted([AWKWARD, {**AWKWARD, "step": "1"}, {"step": "7"}], header))
    rows = logged(tmp_path, 2, (2, {"plain": 2.5}), (3, {"new, column": 'x "y"'}))
    assert rows == [
        AWKWARD,
        {**AWKWARD, "step": "1"},
        {"plain": "2.5", "step": "2"},
        {"new, column": 'x "y"', "step": "3"},
    ]


def test_rows_before_reads_what_csv_wrote(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [{**AWKWARD, "step": str(step)} for step in range(5)]
    (tmp_path / "m.csv").write_text(quoted(rows, list(AWKWARD)), newline="")
    header, kept = rows_before(tmp_path / "m.csv", 3)
    assert header == list(AWKWARD)
    assert kept == rows[:3]


def test_a_file_cut_anywhere_loses_only_the_row_that_was_cut(tmp_path: Path) -> None:
    """A kill can end the file at any byte; a shortened number looks like a number."""
    rows: list[Mapping[str, Any]] = [{**AWKWARD, "plain": "1.52345", "step": str(step)} for step in range(3)]
    content = quoted(rows, list(AWKWARD)).encode()
    ends = [len(quoted(rows[:count], list(AWKWARD)).encode()) for count in range(4)]
    for length in range(ends[0], len(content) + 1):
        (tmp_path / "m.csv").write_bytes(content[:length])
        _, kept = rows_before(tmp_path / "m.csv", 99)
        whole = sum(length >= end for end in ends[1:])
        assert kept == rows[:whole], content[:length]


def test_rows_of_another_shape_or_without_a_step_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("a,step\n1,0\n2\n3,1,9\n4,\n5,x\n6,2\n")
    assert rows_before(tmp_path / "m.csv", 9) == (["a", "step"], [{"a": "1", "step": "0"}, {"a": "6", "step": "2"}])


def test_a_failing_rewrite_keeps_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new column rewrites the file; a full disk in the middle of it must not take the older rows along."""
    before = logged(tmp_path, None, (0, {"a": 1}), (1, {"a": 2}))
    logger = RunCSVLogger(str(tmp_path))
    logger.keep_until(2)
    logger.log_metrics({"b": 3}, 2)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(VaexError, match="No space left on device"):
        logger.save()
    assert table(tmp_path) == before


def test_the_file_lies_in_the_run_folder_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    logged(tmp_path, None, (0, {"a": 1}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "run.json"]
