"""``vaex bench``: measure maps, scores, metrics and feeding beside peers, and maps against known truth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.bench_all import measure_all
from vaex.commands.bench_kinds import bench_naming
from vaex.commands.bench_maps import bench_faithfulness
from vaex.commands.bench_scores import bench_scoring
from vaex.commands.launch import under_hydra
from vaex.commands.options import images_option, methods_option, names_option, positive
from vaex.commands.sources import at_least_one, pick_device
from vaex.errors import VaexError, unknown
from vaex.runs import find_checkpoint

if TYPE_CHECKING:
    from vaex.benchmarks.pointing import Subject
    from vaex.benchmarks.table import Table


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    under_hydra("bench", measure, arguments)


def measure(config: DictConfig) -> None:
    """Measure ``what`` and write bench_<what>.txt, .md and .json into ``out``."""
    parts = {
        "attention": bench_attention,
        "pointing": bench_pointing,
        "metrics": bench_metrics,
        "data": bench_data,
        "train": bench_training,
        "disentanglement": bench_disentanglement,
        "faithfulness": bench_faithfulness,
        "scoring": bench_scoring,
    }
    if config.what == "all":
        measure_all(config, parts)
        return
    parts["kinds"] = bench_naming  # of runs alone that were trained for it, so no part of all
    if config.what not in parts:
        raise unknown("what of vaex bench", str(config.what), [*parts, "all"])
    parts[config.what](config)


def bench_attention(config: DictConfig) -> None:
    """Measure the chosen cases one after the other; what is done is on disk before the next one begins."""
    rounds, budget = at_least_one(config.rounds, "rounds"), positive(config.budget, "budget")
    names = names_option(config.cases, "cases")
    from vaex.benchmarks.attention import case_content, case_table, run_case
    from vaex.benchmarks.cases import chosen_cases
    from vaex.benchmarks.table import show_table
    from vaex.benchmarks.timing import clock_of, one_thread

    cases, device = chosen_cases(names), pick_device(config.device)
    clock_of(device)  # a device that is not measured is told now
    with one_thread():
        content = {**origin(), "device": device, "rounds": rounds, "budget_seconds": budget, "cases": {}}
    tables = []
    for name, case in cases.items():
        result = run_case(case, rounds, budget, device)
        tables.append(case_table(name, result))
        content["cases"][name] = case_content(result)
        show_table(tables[-1], wide_console())
        files = write(config, tables, content)
    tell(files)


def bench_pointing(config: DictConfig) -> None:
    """Measure the maps of each run of ``runs``, one seed each, and write mean and spread."""
    runs = names_option(config.runs, "runs")
    if runs is None:
        raise VaexError("Name trained runs: vaex bench what=pointing runs=[RUN_FOLDER,RUN_FOLDER].")
    images, batch = images_option(config.images, 512), at_least_one(config.batch_size, "batch_size")
    least = positive(config.match, "match")
    for folder in runs:
        find_checkpoint(folder)
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from vaex.benchmarks.pointing import measure_run, methods_and_targets
    from vaex.benchmarks.seeds import pointing_tables
    from vaex.benchmarks.table import show_table

    pairs = methods_and_targets(methods_option(config.methods), names_option(config.targets, "targets"))
    device = pick_device(config.device)
    subjects = [
        subject_of(folder, device, config.paths) for folder in runs
    ]  # one that does not fit is told before anything slow
    options = {"images": images, "least": least, "batch": batch, "layer": config.layer}
    console = Console(stderr=True)
    findings = [
        measure_run(subject, pairs, **options)
        for subject in track(subjects, "Measuring maps", console=console, transient=True)
    ]
    tables = pointing_tables(findings)
    for table in tables:
        show_table(table, wide_console())
    content = {**origin(), **options, "runs": [asdict(one) for one in findings]}
    tell(write(config, tables, content))


def bench_metrics(config: DictConfig) -> None:
    """Measure the metrics of localisation beside scikit-learn and an AUPRO that sorts."""
    rounds, count = at_least_one(config.rounds, "rounds"), at_least_one(config.maps, "maps")
    size = at_least_one(config.resolution, "resolution")
    from vaex.benchmarks.localization import metrics_content, metrics_table, run_metrics
    from vaex.benchmarks.table import show_table
    from vaex.benchmarks.timing import one_thread

    with one_thread():
        content = {**origin(), "rounds": rounds}
    result = run_metrics(count, size, rounds)
    table = metrics_table(result)
    show_table(table, wide_console())
    tell(write(config, [table], {**content, **metrics_content(result)}))


def bench_data(config: DictConfig) -> None:
    """Measure how fast batches of dSprites come, beside loaders that take images one by one."""
    rounds, batch = at_least_one(config.rounds, "rounds"), at_least_one(config.batch_size, "batch_size")
    from vaex.benchmarks.feeding import feeding_content, feeding_table, run_feeding
    from vaex.benchmarks.table import show_table
    from vaex.benchmarks.timing import one_thread

    with one_thread():
        content = {**origin(), "rounds": rounds}
    options = {"root": str(config.paths.data), "cache_dir": config.cache_dir, "batch_size": batch}
    result = run_feeding(options, rounds)
    table = feeding_table(result)
    show_table(table, wide_console())
    tell(write(config, [table], {**content, **feeding_content(result)}))


def bench_disentanglement(config: DictConfig) -> None:
    """Measure the metrics of disentanglement beside disentanglement_lib's algorithms, rewritten."""
    rounds, count = at_least_one(config.rounds, "rounds"), at_least_one(config.codes, "codes")
    from vaex.benchmarks.disentangling import disentanglement_content, disentanglement_tables, run_disentanglement
    from vaex.benchmarks.table import show_table
    from vaex.benchmarks.timing import one_thread

    with one_thread():
        content = {**origin(), "rounds": rounds}
    budget = positive(config.budget, "budget")
    try:
        result = run_disentanglement(rounds, count, budget=budget)
    except VaexError as error:
        raise VaexError(f"codes={count} do not do for every metric: {error}") from error
    tables = disentanglement_tables(result)
    for table in tables:
        show_table(table, wide_console())
    tell(write(config, tables, {**content, **disentanglement_content(result)}))


def bench_training(config: DictConfig) -> None:
    """Measure a training step of FactorVAE beside the reproductions' loop, a hand-written one and the floor."""
    rounds, batch = at_least_one(config.rounds, "rounds"), at_least_one(config.batch_size, "batch_size")
    from vaex.benchmarks.table import show_table
    from vaex.benchmarks.timing import one_thread
    from vaex.benchmarks.training import run_training, training_content, training_tables
    from vaex.commands.quieting import quiet

    budget, device = positive(config.budget, "budget"), pick_device(config.device)
    quiet()
    with one_thread():
        content = {**origin(), "rounds": rounds}
    result = run_training(batch, rounds, budget, device)
    tables = training_tables(result)
    for table in tables:
        show_table(table, wide_console())
    tell(write(config, tables, {**content, **training_content(result)}))


def subject_of(folder: str, device: str, paths: DictConfig, factors: bool = True) -> Subject:
    """Return a run's trained network, the same with the fresh weights of its seed, and its data.

    Raises:
        VaexError: when ``factors`` are needed and the data has none that could be moved.
    """
    from vaex.benchmarks.pointing import Subject
    from vaex.build import load
    from vaex.commands.assembly import build_data
    from vaex.commands.quieting import quiet
    from vaex.config import stored_config
    from vaex.data import DSprites, Sprites
    from vaex.modules import VAEModule

    quiet()
    model = load(folder)
    stored = stored_config(model.config.get("run") or {}).get("data") or {}
    data: Any = build_data(OmegaConf.create({"paths": paths, "data": stored}).data, from_checkpoint=True)
    if factors and not isinstance(data, Sprites | DSprites):
        raise VaexError(
            f"{folder} was trained on {type(data).__name__}: what=pointing needs images whose factors can be moved one "
            "step; choose a run with data=sprites or data=dsprites."
        )
    data.prepare_data()
    data.setup()
    fresh = VAEModule(**{**model.config, "compile": False}).vae.eval()
    fresh.calibration = model.calibration
    path = Path(folder)
    return Subject(path.name or str(path), model.to(device), fresh.to(device), data)


def origin() -> dict[str, Any]:
    """Return where numbers come from: commit, machine, versions of the libraries and of the peers."""
    from importlib import metadata

    from vaex.commands.record import machine, source_state, versions

    found = versions()
    with suppress(metadata.PackageNotFoundError):
        found["captum"] = metadata.version("captum")
    return {**source_state(), "machine": machine(), "versions": found}


def wide_console() -> Any:
    """Return a console on stdout as wide as a table needs where the output is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=180)


def write(config: DictConfig, tables: Sequence[Table], content: dict[str, Any]) -> list[Path]:
    """Write what is known so far."""
    from vaex.benchmarks.table import write_results

    return write_results(Path(config.out).expanduser(), f"bench_{config.what}", tables, content)


def tell(files: Sequence[Path]) -> None:
    """Say where the results lie."""
    print("\n".join(map(str, files)))
