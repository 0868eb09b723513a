"""One measure against another: a point for each set-up, with bars both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vaex.errors import VaexError
from vaex.viz.intervals import Dots


@dataclass(frozen=True)
class Mark:
    """A point with its label: where it lies and how far its bars reach, across and up."""

    label: str
    x: Dots
    y: Dots


def tradeoff_figure(
    series: Mapping[str, Sequence[Mark]], x_title: str, y_title: str, note: str = "", joined: Sequence[str] = ()
) -> Figure:
    """Return a picture of the marks, a colour for each series; those of a series in ``joined`` are joined by a line.

    Raises:
        VaexError: when there is no mark.
    """
    if not any(series.values()):
        raise VaexError(f"No run has both {x_title} and {y_title}, so there is no point to draw.")
    figure = Figure(figsize=(7.0, 5.0), dpi=120)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for number, (name, marks) in enumerate(series.items()):
        color = colormaps["tab10"](number % 10)
        across, up = [mark.x.mean for mark in marks], [mark.y.mean for mark in marks]
        axis.plot(across, up, "o-" if name in joined else "o", color=color, markersize=5, linewidth=0.8, label=name)
        for mark in marks:
            if mark.x.low is not None and mark.x.high is not None:
                axis.plot([mark.x.low, mark.x.high], [mark.y.mean] * 2, color=color, alpha=0.5, linewidth=1.5)
            if mark.y.low is not None and mark.y.high is not None:
                axis.plot([mark.x.mean] * 2, [mark.y.low, mark.y.high], color=color, alpha=0.5, linewidth=1.5)
            axis.annotate(
                mark.label,
                (mark.x.mean, mark.y.mean),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                color=color,
                parse_math=False,
            )
    axis.set_xlabel(x_title, parse_math=False)
    axis.set_ylabel(y_title, parse_math=False)
    axis.set_title(note, fontsize=8, loc="left", parse_math=False)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    legend = axis.legend(frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.set_layout_engine("constrained")
    return figure
