"""What `vaex explain` draws of each image: its latents' maps, and the decision on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from vaex.commands.scoring import part_of
from vaex.commands.sources import list_option
from vaex.errors import VaexError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from vaex.types import Explanation

OVERVIEW = 8  # images in overview.png


class Shown(NamedTuple):
    """Which maps all pictures of a pass show."""

    columns: list[int]  # positions among the maps of an image
    names: list[str]  # ends of the names of their overlays


class LatentPictures:
    """Pictures, overlays and raw maps of the latents; the first batch decides what all pictures show.

    ``shown`` is that decision where an earlier pass has made it.
    """

    def __init__(
        self,
        config: DictConfig,
        options: dict[str, Any],
        out: Path,
        store: Callable[[str, Any], None],
        shown: Shown | None = None,
    ) -> None:
        self.config, self.options, self.out, self.store = config, options, out, store
        self.shown = shown

    def latents(self, explanation: Explanation) -> list[int] | None:
        """Return the latent of each map, None where a map is of no single one."""
        from vaex.columns import latents_of_maps

        return latents_of_maps(explanation, self.options.get("target", "mean"), self.options.get("latents"))

    def totals(self, explanation: Explanation) -> list[str]:
        """Return the names of maps that are of no single latent."""
        from vaex.columns import titles_of_totals

        return titles_of_totals(explanation.maps.shape[1], self.options.get("target", "mean"))

    def write(self, names: Sequence[str], stems: Sequence[str], images: Tensor, explanation: Explanation) -> None:
        """Write what there is to see of ``images`` (B, C, H, W), on the CPU."""
        from vaex.viz import save_png

        latents, totals = self.latents(explanation), self.totals(explanation)
        if self.shown is None:
            columns = columns_chosen(explanation, latents, self.config.latents, self.config.max_latents)
            self.shown = Shown(columns, [overlay_name(column, latents, totals) for column in columns])
            first = part_of(explanation, slice(OVERVIEW))
            rows = list(names[:OVERVIEW])
            overview = figure_of(images[:OVERVIEW], first, columns, latents, totals, rows)
            save_png(overview, self.out / "overview.png")
        for position, (name, stem) in enumerate(zip(names, stems, strict=True)):
            one = explanation.image(position)
            self.store(name, one.maps[0].numpy())
            draw(self.out, stem, images[position : position + 1], one, self.shown, latents, totals)


def overlay_name(column: int, latents: list[int] | None, totals: list[str]) -> str:
    """Return the end of the name of the overlays of a map."""
    return totals[column].replace(" ", "_") if latents is None else f"z{latents[column]:02d}"


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


def figure_of(
    images: Tensor,
    explanation: Explanation,
    columns: list[int],
    latents: list[int] | None,
    totals: list[str],
    rows: list[str] | None = None,
) -> Figure:
    """Draw each image: input, reconstruction, the maps ``columns`` with that image's KL, and the score map.

    ``totals`` are the names of the maps where they are of no single latent.
    """
    from vaex.columns import kl_of_maps, title_of
    from vaex.viz import attention_figure

    if latents is None:
        titles = [[totals[i] for i in columns]] * len(images)
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


def draw(
    out: Path,
    stem: str,
    image: Tensor,
    one: Explanation,
    shown: Shown,
    latents: list[int] | None,
    totals: list[str],
) -> None:
    """Write one picture of the image with its maps, and one overlay per map."""
    from vaex.viz import overlay, save_png

    save_png(figure_of(image, one, shown.columns, latents, totals), out / "pictures" / f"{stem}.png")
    maps = one.maps[0, shown.columns].numpy()
    pixels = image[0].permute(1, 2, 0).numpy()
    vmax = float(abs(maps).max()) or None  # one scale for all overlays of the image
    signed = bool((maps < 0).any())
    for name, values in zip(shown.names, maps, strict=True):
        picture = overlay(pixels, values, vmax=vmax, signed=signed)
        save_png(picture, out / "overlays" / f"{stem}_{name}.png")


def latent_columns(one: Explanation, latents: list[int] | None, totals: list[str]) -> dict[str, Any]:
    """Return the csv columns of one image's latents: mean and KL of every latent, and the sum of every map.

    ``totals`` are the names of the maps where they are of no single latent. The means of a latent grid are left out:
    they would be a column per latent and cell.
    """
    row: dict[str, Any] = {}
    for label, values in {"mean": one.mean, "kl": one.kl}.items():
        if values is not None and values.dim() == 2:
            row |= {f"{label}_{i}": float(value) for i, value in enumerate(values[0].flatten())}
    sums = one.maps[0].sum((-2, -1)).tolist()
    labels: Sequence[Any] = totals if latents is None else latents
    return row | {f"map_sum_{label}".replace(" ", "_"): value for label, value in zip(labels, sums, strict=True)}
