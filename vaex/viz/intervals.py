"""Numbers of several seeds as dots, with the mean and its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vaex.errors import VaexError


@dataclass(frozen=True)
class Dots:
    """A dot for each of ``values``, a bar at the mean, a line from low to high."""

    mean: float
    values: Sequence[float] = ()
    low: float | None = None
    high: float | None = None


Series = Mapping[str, Sequence[Dots | None]]
"""Name -> one entry per line of a panel, None where there is nothing to draw; each series has its colour."""


def intervals_figure(labels: Sequence[str], panels: Sequence[tuple[str, Series]]) -> Figure:
    """Return panels (title, series) side by side, their lines called by ``labels`` from top to bottom.

    Raises:
        VaexError: when there is no line, panel or series, or a series has another number of entries than ``labels``.
    """
    lengths = {len(entries) for _, series in panels for entries in series.values()}
    if not labels or lengths != {len(labels)}:
        raise VaexError(
            f"A picture of seeds needs {len(labels)} entries in every series, one per label, got {lengths}."
        )
    drawn = [name for _, series in panels for name, entries in series.items() if any(entries)]
    names = list(dict.fromkeys(drawn))
    height = 1.2 + len(labels) * max(0.3, 0.16 * len(names))
    figure = Figure(figsize=(1.5 + 0.07 * max(map(len, labels)) + 3.0 * len(panels), height), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, series) in zip(axes, panels, strict=True):
        for name, entries in series.items():
            if name not in names:
                continue
            position = names.index(name)
            color = colormaps["tab10"](position % 10)
            shift = 0.8 * ((position + 0.5) / len(names) - 0.5)
            for row, entry in enumerate(entries):
                if entry is None:
                    continue
                if entry.low is not None and entry.high is not None:
                    axis.plot([entry.low, entry.high], [row + shift] * 2, color=color, linewidth=3, alpha=0.3)
                axis.plot([entry.mean], [row + shift], marker="|", markersize=9, color=color, linestyle="none")
                axis.plot(entry.values, [row + shift] * len(entry.values), "o", markersize=3, color=color)
        axis.set_xlabel(title, parse_math=False)  # names may hold dollar signs
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(labels)), labels, parse_math=False)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    if len(names) > 1:
        for position, name in enumerate(names):
            axes[-1].plot([], [], "o", markersize=3, color=colormaps["tab10"](position % 10), label=name)
        legend = axes[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    figure.set_layout_engine("constrained")
    return figure
