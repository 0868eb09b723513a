"""``vaex explain``: maps of any images by a trained checkpoint; torch, but not Lightning."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import checkpoint_choices, under_hydra, value_of
from vaex.commands.sources import batches, image_sources, model_shape, pick_device, test_sources
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
        under_hydra("explain", explain_images, [*arguments, *choices])


def explain_images(config: DictConfig) -> None:
    """Write pictures, overlays, maps.npz and explain.csv for all images; unreadable ones are named and skipped."""
    import numpy as np
    import torch
    from rich.console import Console
    from rich.progress import track

    from vaex.build import load
    from vaex.data.images import read_image
    from vaex.explanation import explain
    from vaex.viz import save_png

    console = Console(stderr=True)
    model = load(config.ckpt)
    device = pick_device(config.device)
    model.to(device)
    shape = model_shape(model)
    sources = test_sources(config) if config.test_images is not None else image_sources(config.images, shape)
    options: Any = OmegaConf.to_container(config.attention, resolve=True)
    out = Path(config.out)
    skipped: list[str] = []
    rows: list[dict[str, Any]] = []

    def readable() -> Iterator[tuple[str, Any]]:
        for name, source in track(sources.items(), "Explaining", console=console, transient=True):
            try:
                yield name, source if not isinstance(source, Path) else read_image(source, shape)
            except VaexError as error:
                skipped.append(str(error))

    with npz_writer(out / "maps.npz") as store:
        for batch in batches(readable(), config.batch_size):
            images = torch.from_numpy(np.stack([pixels for _, pixels in batch])).to(device)
            explanation = explain(model, images, score=config.score.name, **options)
            chosen = latents_to_draw(explanation, config.latents, config.max_latents)
            if not rows:
                first = slice(0, OVERVIEW)
                names = [name for name, _ in batch]
                save_png(figure_of(images.cpu(), explanation, chosen, rows=names, part=first), out / "overview.png")
            for position, (name, _) in enumerate(batch):
                one = explanation.image(position)
                store(name, one.maps[0].numpy())
                draw(out, name, images[position : position + 1].cpu(), one, chosen)
                rows.append(table_row(name, one))
    if not rows:
        raise VaexError(f"None of the {len(skipped)} images could be read; the first: {skipped[0]}")
    write_table(out / "explain.csv", rows)
    for sentence in skipped:
        console.print(f"skipped: {sentence}", style="yellow", highlight=False, soft_wrap=True)
    print(f"{len(rows)} images explained, {len(skipped)} skipped.")
    print(f"Look at {out / 'overview.png'}; one picture per image, overlays, maps.npz and explain.csv lie beside it.")


def latents_to_draw(explanation: Explanation, latents: Any, most: int) -> list[int]:
    """Return the latents named, else those of highest mean KL over the batch, at most ``most``.

    Raises:
        VaexError: when a latent is out of range.
    """
    count = explanation.maps.shape[1]
    if latents is not None:
        wrong = [i for i in latents if not 0 <= i < count]
        if wrong:
            raise VaexError(
                f"latents={list(latents)}: {wrong} are out of range, the maps are those of 0 to {count - 1}."
            )
        return list(latents)
    if explanation.kl is None or explanation.kl.shape[1] != count:
        return list(range(min(count, most)))
    return explanation.kl.mean(0).argsort(descending=True)[:most].tolist()


def figure_of(
    images: Tensor, explanation: Explanation, latents: list[int], *, rows: list[str] | None = None, part: slice
) -> Figure:
    """Draw the images of ``part``: input, reconstruction, the maps of ``latents``, and the score map."""
    from vaex.viz import attention_figure

    kl = explanation.kl
    count = len(images[part])
    if explanation.maps.shape[1] == 1:
        titles = [["all latents"]] * count
    else:
        nats = [["" if kl is None else f"  KL {kl[n, i]:.2f} nats" for i in latents] for n in range(count)]
        titles = [[f"z{i}{text}" for i, text in zip(latents, row, strict=True)] for row in nats]
    reconstruction = None if explanation.reconstruction is None else explanation.reconstruction[part].cpu().numpy()
    return attention_figure(
        images[part].numpy(),
        reconstruction,
        explanation.maps[part][:, latents].cpu().numpy(),
        titles=titles,
        rows=None if rows is None else rows[part],
        score_maps=explanation.score_map[part].clamp(min=0).cpu().numpy(),
    )


def draw(out: Path, name: str, image: Tensor, one: Explanation, latents: list[int]) -> None:
    """Write one picture of the image with its maps, and one overlay per latent."""
    from vaex.viz import overlay, save_png

    stem = safe_name(name)
    save_png(figure_of(image, one, latents, part=slice(None)), out / f"{stem}.png")
    maps = one.maps[0, latents].numpy()
    pixels = image[0].permute(1, 2, 0).numpy()
    vmax = float(abs(maps).max()) or None  # one scale for all overlays of the image
    signed = bool((maps < 0).any())
    for column, latent in enumerate(latents):
        suffix = "total" if one.maps.shape[1] == 1 else f"z{latent:02d}"
        picture = overlay(pixels, maps[column], vmax=vmax, signed=signed)
        save_png(picture, out / "overlays" / f"{stem}_{suffix}.png")


def safe_name(name: str) -> str:
    """Return a file stem for an image's relative path; folders become underscores."""
    return name.replace("/", "__").rsplit(".", 1)[0] if "." in Path(name).name else name.replace("/", "__")


def table_row(name: str, one: Explanation) -> dict[str, Any]:
    """Return the csv row of one image: score, mean, KL and the sum of its map for every latent."""
    row: dict[str, Any] = {"image": name if name[:1] not in "=+-@" else f"'{name}", "score": float(one.score[0])}
    columns = {"mean": one.mean, "kl": one.kl, "map_sum": one.maps.sum((-2, -1))}
    for label, values in columns.items():
        if values is not None:
            row |= {f"{label}_{i}": float(value) for i, value in enumerate(values[0].flatten())}
    return row


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as csv, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
