"""The csv logger of a run folder, which continues its history on resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from vaex.runs import write_atomic


def rows_until(path: Path, step: int) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header of a metrics.csv and its rows up to ``step``, without rows that were cut short."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        rows = [row for row in reader if (row.get("step") or "").isdigit() and int(row["step"]) <= step]
    return header, [row for row in rows if None not in row and None not in row.values()]


class _ContinuingWriter(ExperimentWriter):
    """Lightning's writer, which would delete an older metrics.csv, started behind the rows that stay."""

    def __init__(self, log_dir: str, until: int | None) -> None:
        path = Path(log_dir) / self.NAME_METRICS_FILE
        kept = rows_until(path, until) if until is not None and path.is_file() else None
        path.unlink(missing_ok=True)
        super().__init__(log_dir)
        if kept and kept[0]:
            header, rows = kept
            lines = [header, *([row[key] for key in header] for row in rows)]
            write_atomic(path, "".join(",".join(line) + "\r\n" for line in lines))
            self.metrics_keys = header

    def _check_log_dir_exists(self) -> None:
        return  # a run folder is never empty, and its metrics.csv is ours to keep


class RunCSVLogger(CSVLogger):
    """Write ``folder``/metrics.csv; on resume the rows up to the checkpoint's step stay (see `keep_until`)."""

    def __init__(self, folder: str, flush_every_n_steps: int = 50) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_every_n_steps)
        self._until: int | None = None

    def keep_until(self, step: int) -> None:
        """Keep the rows of an earlier session up to optimiser step ``step``; call before the first value is logged."""
        self._until = step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _ContinuingWriter(self.log_dir, self._until)
        return self._experiment
