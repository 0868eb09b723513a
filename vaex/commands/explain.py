"""``vaex explain``: scores, decisions, regions and maps of any images by a trained checkpoint; without Lightning."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import checkpoint_choices, quoted, under_hydra, value_of
from vaex.commands.same_reading import cut_once
from vaex.commands.sources import (
    at_least_one,
    image_sources,
    list_option,
    model_shape,
    pick_device,
    test_sources,
    white_of,
)
from vaex.errors import VaexError

DEFAULT_CHECKPOINT = "sprites"
OWN_MAPS = "The score reads the maps that it was calibrated with; those that were asked for are shown."


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    asks = any(argument in ("--help", "-h", "--hydra-help") for argument in arguments)
    with checkpoint_choices(None if asks else value_of(arguments, "ckpt") or DEFAULT_CHECKPOINT) as choices:
        under_hydra("explain", explain_images, [*map(without_tilde, arguments), *choices])


def without_tilde(argument: str) -> str:
    """Expand ``~`` in ``images=~/x`` and ``out=~/x``, which Hydra's grammar refuses and not every shell expands."""
    key, _, value = argument.partition("=")
    bare = value.strip("'\"")
    return (
        f"{key}={quoted(Path(bare).expanduser())}"
        if key in ("images", "out", "roi") and bare.startswith("~")
        else argument
    )


def explain_images(config: DictConfig) -> None:
    """Score all images, decide on them where a threshold is known, and write what there is to see.

    Images go through batch by batch and every row is written at once, so that memory does not grow with their number.
    Those that cannot be read are named at the end and skipped.
    """
    options = checked_options(config)  # before anything slow
    cut = cut_once(config)
    from rich.console import Console

    from vaex.attention.groups import KindsKL
    from vaex.attention.targets import target_named
    from vaex.build import load
    from vaex.commands.alone import alone_in
    from vaex.commands.explain_pass import Pass
    from vaex.commands.findings import PICTURES, earlier_results, where_to_look, without_results
    from vaex.commands.inspection import inspection_of
    from vaex.commands.quieting import quiet
    from vaex.commands.same_pass import is_empty, read_kept, settings_of
    from vaex.commands.scoring import Scorer, speed
    from vaex.scores import score_named
    from vaex.scores.thresholds import maps_that_decide

    quiet()
    model = load(config.ckpt)
    device, shape = pick_device(config.device), model_shape(model)
    score: Any = OmegaConf.to_container(config.score, resolve=True)
    own = maps_that_decide(model.calibration or {}, score_named(score), options)
    inspection = inspection_of(config, model.calibration or {}, own)
    target = target_named(options.get("target", "mean"))
    inspection.kinds = target.names if isinstance(target, KindsKL) and config.tile is None else ()
    out, console = folder_of(config), Console(stderr=True)
    resumed = is_true(config.resume) and not (is_job_of_sweep() and is_empty(out))  # the sweep was stopped before it
    settings = settings_of(config, model, inspection, options)
    if resumed:
        read_kept(out, settings)  # refused before anything slow
    model.to(device)
    told: list[str] = []
    if config.test_images is None:
        sources = image_sources(config.images, shape, white_of(config.data))
        if config.images is not None:
            sources, told = without_results(Path(config.images).expanduser(), sources)
    else:
        sources = test_sources(config.data, list_option(config.test_images, "test_images"))
    others = None if own == options else own
    for sentence in [*cut, *inspection.sentences(), *([] if others is None else [OWN_MAPS])]:
        print(sentence)
    scorer = Scorer(model, device, score, options, shape, config.tile, config.overlap, config.batch_size, others)
    for sentence in [*told, *earlier_results(out, sources, resumed)]:
        console.print(sentence, style="yellow", highlight=False, markup=False, soft_wrap=True)
    job = Pass(config, options, inspection, scorer, sources, out, console)
    with alone_in(out, "explains images", PICTURES):
        if resumed:
            print(job.go_on(read_kept(out, settings)))
        started = time.perf_counter()
        try:
            job.write(settings)
        finally:
            for _, reason in job.skipped:
                console.print(f"skipped: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    elapsed = time.perf_counter() - started
    for sentence in [*job.remarks(), *inspection.warnings(job.scores, job.anomalous, job.unlike)]:
        console.print(sentence, style="bold yellow", highlight=False, markup=False, soft_wrap=True)
    count, before = len(job.scores), len(job.earlier.kept)
    shares = f", {before} of them before and {count - before} now" if resumed else ""
    print(f"{count} images explained{shares}, {len(job.skipped)} skipped.")
    if inspection.threshold is not None:
        print(f"{job.anomalous} anomalous, {count - job.anomalous} ok.")
    if job.last:
        print(speed(count - before, elapsed, scorer.seconds(job.last)))
    skipped = (out / "skipped.csv").exists()
    print(where_to_look(out, job.writes.latents, inspection.finds, job.writes.pictures != "false", skipped))
    if job.stopped is not None:
        left = len(sources) - count - len(job.skipped)
        again = f"repeat the command with {shlex.quote(f'out={config.out}')} resume=true"
        print(f"Stopped: {left} of {len(sources)} images were not looked at; to go on, {again}.")
        raise KeyboardInterrupt if job.stopped == signal.SIGINT else SystemExit(128 + job.stopped)


def is_true(value: Any) -> bool:
    """Return whether ``resume`` is true; here it names no folder, as in `vaex train`.

    Raises:
        VaexError: when it is neither true nor false.
    """
    text = str(value).lower()  # the command line quotes it, as a path
    if text not in ("true", "false"):
        raise VaexError(f"resume must be true or false, got '{value}'; the folder of the earlier pass is that of out=.")
    return text == "true"


def checked_options(config: DictConfig) -> dict[str, Any]:
    """Return the attention options, after a check of what needs no model.

    Raises:
        VaexError: for options that exclude each other, an empty list or a number out of range.
    """
    from vaex.commands.inspection_options import check_inspection

    if config.images is not None and config.test_images is not None:
        raise VaexError("images= and test_images= exclude each other: name files, or positions in the test set.")
    if config.images is not None and not isinstance(config.images, str):
        raise VaexError(f"images must be one file or one folder, got {config.images}; put several files in a folder.")
    at_least_one(config.batch_size, "batch_size")
    at_least_one(config.max_latents, "max_latents")
    check_inspection(config)
    is_true(config.resume)
    for key in ("latents", "test_images"):
        if config[key] is not None:
            list_option(config[key], key)
    options: Any = OmegaConf.to_container(config.attention, resolve=True)
    if options.get("latents") is not None:
        options["latents"] = list_option(options["latents"], "attention.latents")
    return dict(options)


def folder_of(config: DictConfig) -> Path:
    """Return the folder for the results; each job of a sweep (``-m``) has its own, named by its number."""
    from hydra.core.hydra_config import HydraConfig

    out = Path(config.out).expanduser()
    return out / str(HydraConfig.get().job.num) if is_job_of_sweep() else out


def is_job_of_sweep() -> bool:
    """Return whether this is one of several jobs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
