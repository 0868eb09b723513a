"""``vaex bench what=faithfulness``: all methods and targets by all measures of faithfulness, for given runs."""

from __future__ import annotations

from omegaconf import DictConfig

from vaex.commands.options import images_option, methods_option, names_option, positive
from vaex.commands.sources import at_least_one, pick_device
from vaex.errors import VaexError
from vaex.runs import find_checkpoint


def bench_faithfulness(config: DictConfig) -> None:
    """Measure each run of ``runs``, one seed each; what is done is on disk before the next one begins."""
    from vaex.commands.bench import origin, subject_of, tell, wide_console, write

    runs = names_option(config.runs, "runs")
    if runs is None:
        raise VaexError("Name trained runs: vaex bench what=faithfulness runs=[RUN_FOLDER,RUN_FOLDER].")
    images, batch = images_option(config.images, 64), at_least_one(config.batch_size, "batch_size")
    least, latents = positive(config.match, "match"), at_least_one(config.latents, "latents")
    for folder in runs:
        find_checkpoint(folder)
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress, TaskID

    from vaex.benchmarks.faithful import Options, measure_subject
    from vaex.benchmarks.faithful_tables import faithfulness_tables
    from vaex.benchmarks.pointing import Findings, pairs_of, split_targets
    from vaex.benchmarks.table import show_table
    from vaex.errors import unknown
    from vaex.probing import FILLS

    if config.fill is not None and config.fill not in FILLS:
        raise unknown("fill of vaex bench what=faithfulness", str(config.fill), FILLS)
    methods = methods_option(config.methods)
    latent, whole = split_targets(names_option(config.targets, "targets"))
    asked = [
        ("Faithfulness", pairs_of(methods, latent), False),
        ("Faithfulness, whole code", pairs_of(methods, whole), True),
    ]
    device = pick_device(config.device)
    subjects = [subject_of(folder, device, config.paths, factors=False) for folder in runs]
    options = Options(images, batch, config.layer, least, latents, config.fill)
    findings: dict[str, list[Findings]] = {title: [] for title, _, _ in asked}
    tables, files = [], []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for subject in subjects:
            task = progress.add_task(f"Measuring {subject.name}", total=None)

            def told(row: str, task: TaskID = task) -> None:
                progress.update(task, advance=1, description=row)

            for title, pairs, of_whole in asked:
                if pairs:
                    findings[title].append(measure_subject(subject, pairs, options, told, whole=of_whole))
            progress.remove_task(task)
            tables = [table for title, found in findings.items() for table in faithfulness_tables(found, title)]
            of_latents, of_whole_code = ([asdict(one) for one in found] for found in findings.values())
            content = {**origin(), **asdict(options), "runs": of_latents, "whole_code": of_whole_code}
            files = write(config, tables, content)
    for table in tables:
        show_table(table, wide_console())
    tell(files)
