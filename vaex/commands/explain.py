"""``vaex explain``: scores, decisions, regions and maps of any images by a trained checkpoint; without Lightning."""

from __future__ import annotations

import signal
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.finishing import finish_first
from vaex.commands.launch import checkpoint_choices, quoted, under_hydra, value_of
from vaex.commands.sources import (
    Sources,
    at_least_one,
    batches,
    file_stems,
    image_sources,
    list_option,
    model_shape,
    pick_device,
    size_and_pixels,
    test_sources,
    white_of,
)
from vaex.errors import VaexError
from vaex.runs import csv_writer, npz_writer

DEFAULT_CHECKPOINT = "sprites"


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
    from rich.console import Console

    from vaex.build import load
    from vaex.commands.findings import earlier_results, where_to_look
    from vaex.commands.inspection import inspection_of
    from vaex.commands.scoring import Scorer, speed

    model = load(config.ckpt)
    device, shape = pick_device(config.device), model_shape(model)
    model.to(device)
    inspection = inspection_of(config, model.calibration or {}, options)
    if config.test_images is None:
        sources = image_sources(config.images, shape, white_of(config.data))
    else:
        sources = test_sources(config.data, list_option(config.test_images, "test_images"))
    for sentence in inspection.sentences():
        print(sentence)
    score: Any = OmegaConf.to_container(config.score, resolve=True)
    scorer = Scorer(model, device, score, options, shape, config.tile, config.overlap, config.batch_size)
    out, console = folder_of(config), Console(stderr=True)
    for sentence in earlier_results(out, sources):
        console.print(sentence, style="yellow", highlight=False, markup=False, soft_wrap=True)
    job = Job(config, options, inspection, scorer, sources, out, console)
    started = time.perf_counter()
    try:
        job.write()
    finally:
        for _, reason in job.skipped:
            console.print(f"skipped: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    elapsed = time.perf_counter() - started
    for sentence in inspection.warnings(job.scores, job.anomalous):
        console.print(sentence, style="bold yellow", highlight=False, soft_wrap=True)
    count = len(job.scores)
    print(f"{count} images explained, {len(job.skipped)} skipped.")
    if inspection.threshold is not None:
        print(f"{job.anomalous} anomalous, {count - job.anomalous} ok.")
    print(speed(count, elapsed, scorer.seconds(job.last)))
    print(where_to_look(out, job.latent_pictures, inspection.finds, job.pictures != "false"))
    if job.stopped is not None:
        print(f"Stopped: {len(sources) - count - len(job.skipped)} of {len(sources)} images were not looked at.")
        raise KeyboardInterrupt if job.stopped == signal.SIGINT else SystemExit(128 + job.stopped)


class Job:
    """One pass over all images; counts, scores and what was skipped are known after `write`."""

    def __init__(
        self, config: DictConfig, options: Any, inspection: Any, scorer: Any, sources: Sources, out: Path, console: Any
    ) -> None:
        self.config, self.options, self.inspection, self.scorer = config, options, inspection, scorer
        self.sources, self.out, self.console = sources, out, console
        self.pictures = str(config.pictures).lower()
        self.latent_pictures = self.pictures != "false" and config.tile is None
        self.skipped: list[tuple[str, str]] = []  # names and reasons
        self.stopped: int | None = None  # the signal that ended the pass
        self.scores = array("d")
        self.anomalous = 0
        self.last: list[Any] = []  # images of the last batch, for the latency

    def readable(self) -> Iterator[Any]:
        """Yield the images that can be read, with a progress bar."""
        import torch
        from rich.progress import track

        from vaex.commands.scoring import Item

        for name, source in track(self.sources.items(), "Explaining", console=self.console, transient=True):
            try:
                size, pixels = size_and_pixels(source, original=self.config.tile is not None)
            except VaexError as error:
                self.skipped.append((name, str(error)))
                continue
            try:  # whether the region of interest fits is asked before the image is scored
                self.inspection.mask(size, pixels.shape[-2:], getattr(source, "path", None))
            except VaexError as error:
                self.skipped.append((name, f"{name}: {error}"))
            else:
                yield Item(name, torch.from_numpy(pixels), size)

    def write(self) -> None:
        """Write the tables, the regions, and pictures and maps where they are wanted.

        Raises:
            VaexError: when no image can be read; as the model and the files do.
        """
        from vaex.commands.drawing import LatentPictures
        from vaex.commands.findings import findings_writer

        stems = file_stems(self.sources)
        draws = self.pictures != "false"
        with ExitStack() as files:
            pictures = findings = None
            if self.latent_pictures:
                store = files.enter_context(npz_writer(self.out / "maps.npz"))
                pictures = LatentPictures(self.config, self.options, self.out, store)
            row = files.enter_context(csv_writer(self.out / "explain.csv"))
            if self.inspection.finds:
                findings = files.enter_context(findings_writer(self.out, self.inspection, draws))
            size = self.config.batch_size if self.config.tile is None else 1
            ends = files.enter_context(finish_first())
            for batch in batches(self.readable(), size):
                self._batch(batch, stems, row, findings, pictures)
                self.last, self.stopped = batch, ends()
                if self.stopped is not None:
                    break
            if not self.scores:
                told = f"None of the {len(self.skipped)} images could be judged; the first: {self.skipped[0][1]}"
                raise VaexError(told)
            if self.skipped:
                skipped = files.enter_context(csv_writer(self.out / "skipped.csv", ("image", "reason")))
                for name, reason in self.skipped:
                    skipped({"image": name, "reason": reason})
            else:
                (self.out / "skipped.csv").unlink(missing_ok=True)

    def _batch(self, batch: list[Any], stems: dict[str, str], row: Any, findings: Any, pictures: Any) -> None:
        import torch

        from vaex.commands.drawing import latent_columns
        from vaex.commands.findings import table_row
        from vaex.commands.scoring import part_of

        looked = self.scorer.look(batch, whole=pictures is not None and self.pictures == "true")
        drawn: list[int] = []
        for position, item in enumerate(batch):
            score_map = looked.score_map[position, 0].numpy()
            path = getattr(self.sources[item.name], "path", None)
            try:
                verdict = self.inspection.judge(score_map, float(looked.score[position]), item.size, path)
            except VaexError as error:
                self.skipped.append((item.name, f"{item.name}: {error}"))
                continue
            self.scores.append(verdict.score)
            self.anomalous += bool(verdict.anomalous)
            show = self.pictures == "true" or (self.pictures == "anomalous" and bool(verdict.anomalous))
            latents = {}
            if looked.explanation is not None:
                one = looked.explanation.image(position)
                latents = latent_columns(one, pictures.latents(one), pictures.totals(one))
            row({**table_row(item, verdict), **latents})
            if findings is not None:
                findings(item, stems[item.name], score_map, verdict, show)
            drawn += [position] if show else []
        if pictures is not None and drawn:
            chosen = [batch[position] for position in drawn]
            known = looked.explanation
            explanation = self.scorer.explain(chosen) if known is None else part_of(known, drawn)
            names = [item.name for item in chosen]
            images = torch.stack([item.pixels for item in chosen])
            pictures.write(names, [stems[name] for name in names], images, explanation)


def checked_options(config: DictConfig) -> dict[str, Any]:
    """Return the attention options, after a check of what needs no model.

    Raises:
        VaexError: for options that exclude each other, an empty list or a number out of range.
    """
    from vaex.commands.inspection import check_inspection

    if config.images is not None and config.test_images is not None:
        raise VaexError("images= and test_images= exclude each other: name files, or positions in the test set.")
    if config.images is not None and not isinstance(config.images, str):
        raise VaexError(f"images must be one file or one folder, got {config.images}; put several files in a folder.")
    at_least_one(config.batch_size, "batch_size")
    at_least_one(config.max_latents, "max_latents")
    check_inspection(config)
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
    from hydra.types import RunMode

    out = Path(config.out).expanduser()
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return out / str(HydraConfig.get().job.num)
    return out
