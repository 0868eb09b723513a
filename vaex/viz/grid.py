"""The figure that shows what each latent attends to: a row per image, a column per map, one colour scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from vaex.errors import VaexError
from vaex.viz.overlays import OPACITY, Array, Pixels, blend, check_map, lookup_table, overlay, scale_of
from vaex.viz.tiles import fit, image_grid, outlined, resize, to_tiles

__all__ = ["attention_figure", "image_grid"]

DPI = 120
FONT = 9.0  # points
LINE = 18  # pixels from one line of text to the next
GAP = 8  # pixels between cells
NARROWEST = 90  # pixels that a label needs, should the images be narrower
MARGIN = 16  # pixels around all
FRAME = (190, 190, 190)  # grey line around each cell, for images as white as the page
BAR = 100  # least width in pixels of a colour bar with its numbers and its label
SCORE_COLOURS = "viridis"  # unlike the attention's, since a score map has another scale


def attention_figure(
    images: Array,
    reconstructions: Array | None,
    maps: Array,
    *,
    titles: Sequence[str] | Sequence[Sequence[str]],
    masks: Array | None = None,
    scores: Array | Sequence[float] | None = None,
    score_maps: Array | None = None,
    rows: Sequence[str] | None = None,
    vmax: float | None = None,
    signed: bool | None = None,
    colormap: str | None = None,
    label: str = "attention",
) -> Figure:
    """Draw one row per image: input, reconstruction, and each of its maps over the grey input.

    ``images`` and ``reconstructions`` (N, C, H, W) in [0, 1]; where images leave that range (normalised ones), both
    are stretched by the images' least and greatest value. ``reconstructions`` None leaves the column out. ``maps``
    (N, T, H, W) share one colour scale up to ``vmax`` (None: the largest value drawn), with a colour bar named
    ``label``. ``titles`` names each map, for instance "z3  KL 2.1 nats": T for the columns, or N lists of T for the
    single maps. ``masks`` (N, 1, H, W), above one half inside, are outlined. ``scores`` (N,) and ``rows`` (N strings)
    are written before each row. ``score_maps`` (N, 1, H, W), not negative, become a last column with its own colour
    bar. ``signed`` None: where a map has negative values. ``colormap`` as in `overlay`. Cells are at most 224 pixels;
    small images are enlarged by a whole factor.

    The figure belongs to no window and no global list: it vanishes with its last reference.

    Raises:
        VaexError: shapes do not fit each other, or a value is not finite.
    """
    images, maps = np.asarray(images), np.asarray(maps)
    inputs, recons = _pictures(images, reconstructions)
    count, size = len(inputs), inputs.shape[1:3]
    _same_shape("maps", maps, (count, maps.shape[1] if maps.ndim == 4 and maps.shape[1] else -1, *size))
    labels = _labels(titles, count, maps.shape[1])
    signed = bool(maps.min() < 0) if signed is None else signed
    check_map(maps, signed)
    bars = [(label, scale_of(maps, vmax), colormap, signed)]
    heads = ["input"] + ["reconstruction"] * (recons is not None)
    if score_maps is not None:
        score_maps = np.asarray(score_maps)
        _same_shape("score maps", score_maps, (count, 1, *size))
        check_map(score_maps, signed=False)
        bars.append(("score", scale_of(score_maps, None), SCORE_COLOURS, False))
    if masks is not None:
        masks = np.asarray(masks)
        _same_shape("masks", masks, (count, 1, *size))

    cells: list[list[Pixels]] = []
    width = len(heads) + maps.shape[1] + (score_maps is not None)
    cell = fit((size[0], size[1]), int(np.clip(min(2000 / width, 2600 / count), 112, 224)))
    for n in range(count):
        grey = inputs[n].astype(np.float64) / 255
        drawn = [overlay(grey, one, vmax=bars[0][1], colormap=colormap, signed=signed) for one in maps[n]]
        if score_maps is not None:
            drawn.append(overlay(grey, score_maps[n, 0], vmax=bars[1][1], colormap=SCORE_COLOURS))
        row = [resize(tile, cell) for tile in (inputs[n], *drawn)]
        if masks is not None:
            row = [outlined(tile, masks[n, 0] > 0.5) for tile in row]
        if recons is not None:
            row.insert(1, resize(recons[n], cell))
        cells.append(row)

    tails = ["score map"] * (score_maps is not None)
    tops = [[*heads, *labels[0], *tails]]
    tops += [[*[""] * len(heads), *row, *[""] * len(tails)] for row in labels[1:]]
    sides = _sides(count, rows, scores)
    note = f"Colour over the grey input: {label}, on one scale for all maps."
    note += " The score map has its own." if score_maps is not None else ""
    note += " Cyan outline: true mask." if masks is not None else ""
    return compose(cells, cell, tops, sides, bars, note)


def compose(
    cells: list[list[Pixels]],
    cell: tuple[int, int],
    tops: list[list[str]],
    sides: list[str],
    bars: list[tuple[str, float, str | None, bool]],
    note: str,
    opacity: float = OPACITY,
) -> Figure:
    """Place cells, the text above and before them, and the colour bars on one canvas; all in pixels."""
    high, wide = cell
    pitch = max(wide, NARROWEST) + GAP  # from one column to the next
    above = [[_wrapped(text, pitch - GAP) for text in row] for row in tops]
    beside = [_wrapped(side, 120) for side in sides]
    left = MARGIN + max((_width(line) for text in beside for line in text.split("\n")), default=0)
    left += GAP if left > MARGIN else 0
    y, tops_y = MARGIN, []
    for texts in above:
        y += LINE * max((text.count("\n") + 1 for text in texts if text), default=0)
        tops_y.append(y)
        y += high + GAP
    bottom, right = y - GAP, left + len(cells[0]) * pitch - GAP
    ends = [[-top, 0, top] if signed else [0, top / 2, top] for _, top, _, signed in bars]
    widths = [max(BAR, 64 + max(_width(f"{tick:.2g}") for tick in ticks)) for ticks in ends]  # 64: gaps, bar, label
    total_width = right + sum(widths) + MARGIN
    note = _wrapped(note, total_width - 2 * MARGIN)
    total_height = max(bottom, tops_y[0] + 112) + MARGIN + LINE * (note.count("\n") + 1)

    canvas = np.full((total_height, total_width, 4), 255, dtype=np.uint8)  # RGBA, as Agg draws it
    figure = Figure(figsize=((total_width + 0.01) / DPI, (total_height + 0.01) / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    for n, row in enumerate(cells):
        for column, tile in enumerate(row):
            x = left + column * pitch + (pitch - GAP - wide) // 2
            canvas[tops_y[n] - 1 : tops_y[n] + high + 1, x - 1 : x + wide + 1] = (*FRAME, 255)
            canvas[tops_y[n] : tops_y[n] + high, x : x + wide, :3] = tile
            _write(axes, x + wide / 2, tops_y[n] - 3, above[n][column], "bottom", "center")
        _write(axes, left - GAP, tops_y[n] + high / 2, beside[n], "center", "right")
    _write(axes, MARGIN, total_height - GAP, note, "bottom", "left", "0.35")
    axes.add_image(_Cells(axes, canvas))
    axes.set(xlim=(0, total_width), ylim=(total_height, 0))

    tall = min(max(bottom - tops_y[0], 112), 360)
    for number, (name, top, colormap, signed) in enumerate(bars):
        box = (right + 20 + sum(widths[:number]), total_height - tops_y[0] - tall, 14, tall)  # y from below
        place = (box[0] / total_width, box[1] / total_height, box[2] / total_width, box[3] / total_height)
        levels = np.linspace(-1 if signed else 0, 1, 256)
        seen = blend(np.full(256, 0.5), levels, opacity, lookup_table(colormap, signed), signed)  # as over a grey pixel
        shades = ScalarMappable(Normalize(-top if signed else 0, top), ListedColormap(seen))
        bar = figure.colorbar(shades, cax=figure.add_axes(place), ticks=ends[number])
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ends[number]], fontsize=FONT - 1)
        bar.set_label(_wrapped(name, tall), fontsize=FONT, parse_math=False)
    return figure


class _Cells(AxesImage):
    """An image (H, W, 4) as large as its figure, put down as it is where no pixel needs another size."""

    def __init__(self, axes: Axes, canvas: NDArray[np.uint8]) -> None:
        height, width = canvas.shape[:2]
        super().__init__(axes, interpolation="nearest", extent=(0, width, height, 0))
        self.pixels = canvas

    def draw(self, renderer: RendererBase) -> None:
        """Draw it; matplotlib's own way, for files of another resolution, takes as long as all the text."""
        if tuple(renderer.get_canvas_width_height()) != (self.pixels.shape[1], self.pixels.shape[0]):
            self.set_data(self.pixels)
            super().draw(renderer)
            return
        graphics = renderer.new_gc()
        renderer.draw_image(graphics, 0, 0, self.pixels[::-1])
        graphics.restore()


def _write(axes: Axes, x: float, y: float, text: str, vertical: str, horizontal: str, colour: str = "black") -> None:
    if text:
        axes.text(x, y, text, va=vertical, ha=horizontal, fontsize=FONT, color=colour, parse_math=False)


@lru_cache(maxsize=4096)
def _width(text: str) -> int:
    """Return the width of one line in pixels."""
    points, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=FONT), ismath=False)
    return int(np.ceil(points * DPI / 72))


def _wrapped(text: str, width: int) -> str:
    """Break the text so that no line is wider than ``width`` pixels: at blanks, and names where their parts meet."""
    lines = []
    for line in text.split("\n"):
        current = ""
        for word in line.split(" "):
            if current and _width(f"{current} {word}") > width:
                lines.append(current.rstrip())
                current = word
            else:
                current = f"{current} {word}" if current else word
            while len(current) > 1 and _width(current) > width:
                cut = next(n for n in range(len(current) - 1, 0, -1) if n == 1 or _width(current[:n]) <= width)
                parts = [part.start() for part in re.finditer(r"\.|(?<=[_/-])", current[: cut + 1])]
                cut = max((part for part in parts if cut // 3 < part <= cut), default=cut)
                lines.append(current[:cut])
                current = current[cut:]
        lines.append(current)
    return "\n".join(lines)


def _labels(titles: Sequence[str] | Sequence[Sequence[str]], count: int, targets: int) -> list[list[str]]:
    """Return the labels of the maps, row by row; column titles stand in the first row alone."""
    if all(isinstance(title, str) for title in titles):
        grid = [[str(title) for title in titles], *([""] * targets for _ in range(count - 1))]
    else:
        grid = [[str(title) for title in row] for row in titles]
    if len(grid) != count or any(len(row) != targets for row in grid):
        raise VaexError(
            f"Titles must be {targets} strings, or {count} lists of {targets}, one for each map, got "
            f"{[len(row) for row in grid]}: label each map."
        )
    return grid


def _sides(count: int, rows: Sequence[str] | None, scores: Array | Sequence[float] | None) -> list[str]:
    """Return what is written before each row."""
    sides: list[list[str]] = [[] for _ in range(count)]
    for name, values in (("rows", rows), ("scores", scores)):
        if values is not None:
            if len(values) != count:
                raise VaexError(f"The {name} of a figure must be {count}, one per image, got {len(values)}.")
            for side, value in zip(sides, values, strict=True):
                side.append(f"score {float(value):.3g}" if name == "scores" else str(value))
    return ["\n".join(side) for side in sides]


def _pictures(images: Array, reconstructions: Array | None) -> tuple[Pixels, Pixels | None]:
    low, high = min(0.0, float(images.min(initial=0))), max(1.0, float(images.max(initial=1)))
    inputs = to_tiles((images - low) / (high - low), "images")
    if reconstructions is None:
        return inputs, None
    reconstructions = np.asarray(reconstructions)
    _same_shape("reconstructions", reconstructions, images.shape)
    return inputs, to_tiles((reconstructions - low) / (high - low), "reconstructions")


def _same_shape(name: str, array: Array, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        wanted = tuple("T" if length == -1 else length for length in expected)
        raise VaexError(f"The {name} to draw must have shape {wanted} to fit the images, got {array.shape}.")
