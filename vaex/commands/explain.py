"""``vaex explain``: maps of any images by a trained checkpoint; torch, but not Lightning."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import checkpoint_choices, quoted, under_hydra, value_of
from vaex.commands.sources import (
    at_least_one,
    batches,
    file_stems,
    image_sources,
    list_option,
    model_shape,
    pick_device,
    test_sources,
)
from vaex.errors import VaexError
from vaex.runs import npz_writer, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from vaex.types import Explanation

DEFAULT_CHECKPOINT = "sprites"
OVERVIEW = 8  # images in overview.png


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    asks = any(argument in ("--help", "-h", "--hydra-help") for argument in arguments)
    with checkpoint_choices(None if asks else value_of(arguments, "ckpt") or DEFAULT_CHECKPOINT) as choices:
        under_hydra("explain", explain_images, [*map(without_tilde, arguments), *choices])


def without_tilde(argument: str) -> str:
    """Expand ``~`` in ``images=~/x`` and ``out=~/x``, which Hydra's grammar refuses and not every shell expands."""
    key, _, value = argument.partition("=")
    bare = value.strip("'\"")
    return f"{key}={quoted(Path(bare).expanduser())}" if key in ("images", "out") and bare.startswith("~") else argument


def explain_images(config: DictConfig) -> None:
    """Write pictures, overlays, maps.npz and explain.csv for all images; unreadable ones are named and skipped."""
    options = checked_options(config)  # before anything slow
    import numpy as np
    import torch
    from rich.console import Console
    from rich.progress import track

    from vaex.build import load
    from vaex.columns import latents_of_maps
    from vaex.explanation import explain
    from vaex.viz import save_png

    console = Console(stderr=True)
    model = load(config.ckpt)
    device = pick_device(config.device)
    model.to(device)
    if config.test_images is None:
        sources = image_sources(config.images, model_shape(model))
    else:
        sources = test_sources(config.data, list_option(config.test_images, "test_images"))
    stems = file_stems(sources)
    score: Any = OmegaConf.to_container(config.score, resolve=True)
    out = folder_of(config)
    skipped: list[str] = []
    rows: list[dict[str, Any]] = []
    chosen: list[int] = []

    def readable() -> Iterator[tuple[str, Any]]:
        for name, read in track(sources.items(), "Explaining", console=console, transient=True):
            try:
                yield name, read()
            except VaexError as error:
                skipped.append(str(error))

    with npz_writer(out / "maps.npz") as store:
        for batch in batches(readable(), config.batch_size):
            images = torch.from_numpy(np.stack([pixels for _, pixels in batch])).to(device)
            explanation = explain(model, images, score=score, **options)
            latents = latents_of_maps(explanation, options.get("target", "mean"), options.get("latents"))
            if not rows:  # the first batch decides what all pictures show
                chosen = columns_chosen(explanation, latents, config.latents, config.max_latents)
                names = [name for name, _ in batch][:OVERVIEW]
                first = explanation_of_first(explanation, OVERVIEW)
                save_png(figure_of(images[:OVERVIEW].cpu(), first, chosen, latents, names), out / "overview.png")
            for position, (name, _) in enumerate(batch):
                one = explanation.image(position)
                store(name, one.maps[0].numpy())
                draw(out, stems[name], images[position : position + 1].cpu(), one, chosen, latents)
                rows.append(table_row(name, one, latents))
        if not rows:
            raise VaexError(f"None of the {len(skipped)} images could be read; the first: {skipped[0]}")
    write_table(out / "explain.csv", rows)
    for sentence in skipped:
        console.print(f"skipped: {sentence}", style="yellow", highlight=False, soft_wrap=True)
    print(f"{len(rows)} images explained, {len(skipped)} skipped.")
    print(f"Look at {out / 'overview.png'}; pictures/, overlays/, maps.npz and explain.csv lie beside it.")


def checked_options(config: DictConfig) -> dict[str, Any]:
    """Return the attention options, after a check of what needs no model.

    Raises:
        VaexError: for options that exclude each other, an empty list or a number out of range.
    """
    if config.images is not None and config.test_images is not None:
        raise VaexError("images= and test_images= exclude each other: name files, or positions in the test set.")
    if config.images is not None and not isinstance(config.images, str):
        raise VaexError(f"images must be one file or one folder, got {config.images}; put several files in a folder.")
    at_least_one(config.batch_size, "batch_size")
    at_least_one(config.max_latents, "max_latents")
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


def columns_chosen(explanation: Explanation, latents: list[int] | None, wanted: Any, most: int) -> list[int]:
    """Return the positions of the maps of the latents ``wanted``; None: of those of highest mean KL, at most ``most``.

    ``latents`` holds the latent of each map, None where a map is of no single one.

    Raises:
        VaexError: when a latent that is wanted has no map.
    """
    from vaex.columns import strongest

    if wanted is None:
        return list(range(explanation.maps.shape[1])) if latents is None else strongest(explanation, latents, most)
    wanted = list_option(wanted, "latents")
    if latents is None:
        raise VaexError(f"latents={wanted} chooses among maps, but here one map is of all latents; leave latents out.")
    wrong = [latent for latent in wanted if latent not in latents]
    if wrong:
        every = latents == list(range(len(latents)))
        there = f"0 to {len(latents) - 1}" if every else f"{latents} (attention.latents)"
        raise VaexError(f"latents={wanted}: {wrong} are out of range, the maps are those of {there}.")
    return [latents.index(latent) for latent in wanted]


def explanation_of_first(explanation: Explanation, count: int) -> Explanation:
    """Return the explanation of the first ``count`` images of the batch, on the CPU."""
    parts: list[Any] = [None if part is None else part[:count].cpu() for part in explanation]
    return type(explanation)(*parts)


def figure_of(
    images: Tensor,
    explanation: Explanation,
    columns: list[int],
    latents: list[int] | None,
    rows: list[str] | None = None,
) -> Figure:
    """Draw each image: input, reconstruction, the maps ``columns`` with that image's KL, and the score map."""
    from vaex.columns import kl_of_maps, title_of, titles_of_totals
    from vaex.viz import attention_figure

    if latents is None:
        titles = [[titles_of_totals(explanation.maps.shape[1])[i] for i in columns]] * len(images)
    else:
        kl = kl_of_maps(explanation, latents)
        titles = [
            [title_of(latents[i], None if kl is None else float(kl[n, i])) for i in columns] for n in range(len(images))
        ]
    reconstruction = explanation.reconstruction
    return attention_figure(
        images.numpy(),
        None if reconstruction is None else reconstruction.numpy(),
        explanation.maps[:, columns].numpy(),
        titles=titles,
        rows=rows,
        score_maps=explanation.score_map.clamp(min=0).numpy(),
    )


def draw(out: Path, stem: str, image: Tensor, one: Explanation, columns: list[int], latents: list[int] | None) -> None:
    """Write one picture of the image with its maps, and one overlay per map."""
    from vaex.viz import overlay, save_png

    save_png(figure_of(image, one, columns, latents), out / "pictures" / f"{stem}.png")
    maps = one.maps[0, columns].numpy()
    pixels = image[0].permute(1, 2, 0).numpy()
    vmax = float(abs(maps).max()) or None  # one scale for all overlays of the image
    signed = bool((maps < 0).any())
    for column, values in zip(columns, maps, strict=True):
        suffix = "total" if latents is None else f"z{latents[column]:02d}"
        picture = overlay(pixels, values, vmax=vmax, signed=signed)
        save_png(picture, out / "overlays" / f"{stem}_{suffix}.png")


def table_row(name: str, one: Explanation, latents: list[int] | None) -> dict[str, Any]:
    """Return the csv row of one image: score, mean and KL of every latent, and the sum of every map."""
    row: dict[str, Any] = {"image": name if name[:1] not in "=+-@" else f"'{name}", "score": float(one.score[0])}
    for label, values in {"mean": one.mean, "kl": one.kl}.items():
        if values is not None:
            row |= {f"{label}_{i}": float(value) for i, value in enumerate(values[0].flatten())}
    sums = one.maps[0].sum((-2, -1)).tolist()
    labels: Sequence[Any] = latents if latents is not None else ["total"] if len(sums) == 1 else range(len(sums))
    return row | {f"map_sum_{label}": value for label, value in zip(labels, sums, strict=True)}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as csv, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
