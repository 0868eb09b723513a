"""``vaex bench what=kinds``: whether latents name the kinds of defects that they were trained to stand for."""

from __future__ import annotations

from omegaconf import DictConfig

from vaex.commands.options import names_option
from vaex.commands.sources import at_least_one, pick_device
from vaex.errors import VaexError
from vaex.runs import find_checkpoint


def bench_naming(config: DictConfig) -> None:
    """Measure each run of ``runs``; what is done is on disk before the next one begins."""
    from vaex.commands.bench import origin, subject_of, tell, wide_console, write

    runs, copies = names_option(config.runs, "runs"), at_least_one(config.copies, "copies")
    if runs is None:
        raise VaexError("Name trained runs: vaex bench what=kinds runs=[RUN_FOLDER,RUN_FOLDER].")
    for folder in runs:
        find_checkpoint(folder)
    from dataclasses import asdict

    from vaex.benchmarks.kinds import kinds_tables, measure_kinds
    from vaex.benchmarks.table import show_table

    device = pick_device(config.device)
    findings, tables, files = [], [], []
    for folder in runs:
        subject = subject_of(folder, device, config.paths, factors=False)
        findings.append(measure_kinds(subject.name, subject.trained, subject.untrained, subject.data, copies))
        tables = kinds_tables(findings)
        files = write(config, tables, {**origin(), "copies": copies, "runs": [asdict(one) for one in findings]})
    for table in tables:
        show_table(table, wide_console())
    tell(files)
