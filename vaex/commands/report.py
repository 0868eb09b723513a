"""``vaex report``: one self-contained page to look at a run; it reads the run folder alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vaex.commands.launch import under_hydra
from vaex.errors import VaexError
from vaex.runs import REPORT, write_atomic

FALSE_ALARM_RATE = 0.05
"""Share of normal images that the calibrated thresholds may call anomalous."""

LARGEST = 15 * 2**20
"""Most bytes of a page; pictures are left out from the last on where it would be larger."""


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    under_hydra("report", report_on, arguments)


def report_on(config: DictConfig) -> None:
    """Write the report of ``run`` and say where it is."""
    from vaex.commands.table import names_of
    from vaex.scores.thresholds import check_rate

    if not config.run:
        raise VaexError("Name a run folder: vaex report run=RUN_FOLDER.")
    folder = Path(str(config.run)).expanduser()
    out = Path(config.out).expanduser() if config.out else None
    rate = check_rate(config.false_alarm_rate)
    print(f"Report: {write_report(folder, names_of(config.runs, 'runs') or (), out, rate)}")


def try_report(folder: Path) -> Path | None:
    """Write the report of a run that has just ended; what fails is told and not fatal, since the run is done."""
    try:
        return write_report(folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run is not lost
        print(f"vaex: no report written: {error} (vaex report run={folder} tries again)", file=sys.stderr)
        return None


def write_report(
    folder: Path, others: Sequence[str] = (), out: Path | None = None, rate: float = FALSE_ALARM_RATE
) -> Path:
    """Write the report of a run folder, the metrics of ``others`` beside its own, and return its path.

    Calibrated thresholds are those that call at most ``rate`` of normal images anomalous.

    Raises:
        VaexError: when it is no run folder, or nothing was measured yet.
    """
    from vaex.commands.run_folders import config_of, origin_of, read_results
    from vaex.reporting.results import read_result

    if not folder.is_dir():
        raise VaexError(f"There is no run folder {folder}; check run=.")
    config = config_of(folder)
    result = read_result(folder, config, origin_of(config))
    beside = [other for other in read_results(others) if other.folder.resolve() != folder.resolve()] if others else []
    path = out or folder / REPORT
    write_atomic(path, report_page(result, beside, rate))
    return path


def report_page(result: Any, others: Sequence[Any] = (), rate: float = FALSE_ALARM_RATE) -> str:
    """Return the page of a run, a `vaex.reporting.results.Result`, with others' metrics beside it."""
    from vaex import __version__
    from vaex.commands.report_gallery import EVERY_MAP, LEFT_OUT, OWN_METHOD, OWN_SCORE, kept_parts, read_kept
    from vaex.commands.report_metrics import kinds_section, metrics_section
    from vaex.commands.report_text import (
        config_section,
        curves_section,
        pictures_sections,
        summary_section,
        title_of,
    )
    from vaex.viz.report_page import page

    kept = read_kept(result.folder)
    if kept:
        kept["held_out"] = bool(result.config.get("held_out"))
    pictures = pictures_sections(result.folder)
    lead = "How this run learned, what it measured, and where it looks. All numbers are of the stage that is named."
    wholes = [(count, EVERY_MAP) for count in range(len(pictures), -1, -1)]
    for count, maps in [*wholes, (0, OWN_METHOD), (0, OWN_SCORE)]:
        gallery, data = kept_parts(kept, rate, maps)
        left_out = [part.title for part in pictures[count:] if part.content] + LEFT_OUT[maps]
        parts = [
            summary_section(result),
            metrics_section(result, others),
            *gallery,
            kinds_section(result),
            *pictures[:count],
            curves_section(result),
            config_section(result.folder),
        ]
        footer = f"Written by vaex {__version__}."
        if left_out:
            footer += f" Left out, to stay below {LARGEST / 2**20:.3g} MB: {', '.join(left_out)}."
        text = page(title_of(result), lead, parts, data, footer)
        if len(text.encode()) <= LARGEST:
            break
    return text
