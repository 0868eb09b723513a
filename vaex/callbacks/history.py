"""The csv logger of a run folder, which continues its history on resume."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from vaex.runs import write_atomic

Row = dict[str, Any]


def rows_before(path: Path, step: int) -> tuple[list[str], list[Row]]:
    """Return the header of a metrics.csv and its rows of steps below ``step``, without a row that was cut short."""
    text = path.read_bytes().decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    header = list(reader.fieldnames or [])
    try:
        rows.extend(reader)
    except csv.Error:
        pass  # the last row ends within a quoted value
    else:
        if rows and not text.endswith("\n"):
            rows.pop()
    whole = [row for row in rows if None not in row and None not in row.values()]
    return header, [row for row in whole if row.get("step", "").isdigit() and int(row["step"]) < step]


class _ContinuingWriter(ExperimentWriter):
    """Lightning's writer, which would delete an older metrics.csv, started behind the rows that stay."""

    def __init__(self, log_dir: str, until: int | None) -> None:
        self._path = Path(log_dir) / self.NAME_METRICS_FILE
        self._kept: list[Row] = []
        header: list[str] = []
        if until is not None and self._path.is_file():
            header, self._kept = rows_before(self._path, until)
            header.sort()  # the order in which the parent appends
        super().__init__(log_dir)
        self.metrics_keys = header
        if header:
            self._write(self._kept)
        else:
            self._path.unlink(missing_ok=True)

    def _check_log_dir_exists(self) -> None:
        return  # a run folder is never empty, and its metrics.csv is ours to keep

    def _write(self, rows: list[Row]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self._path, text.getvalue())

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with self._path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._write(rows)  # the parent writes in place, where a kill would take the history along

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record a row; the first one replaces the older rows of its step and of later ones."""
        if self._kept and step is not None:
            if any(int(row["step"]) >= step for row in self._kept):
                self._write([row for row in self._kept if int(row["step"]) < step])
            self._kept = []
        super().log_metrics(metrics_dict, step)


class RunCSVLogger(CSVLogger):
    """Write ``folder``/metrics.csv; on resume the rows of the steps before the checkpoint stay (see `keep_until`)."""

    def __init__(self, folder: str, flush_every_n_steps: int = 50) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_every_n_steps)
        self._until: int | None = None

    def keep_until(self, step: int) -> None:
        """Keep the rows of an earlier session that ``step`` optimiser steps wrote, those numbered 0 to ``step`` - 1.

        Call it before the first value is logged. Where a batch takes several optimiser steps, rows are numbered by
        batches; those that are written again then replace the older ones.
        """
        self._until = step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _ContinuingWriter(self.log_dir, self._until)
        return self._experiment
