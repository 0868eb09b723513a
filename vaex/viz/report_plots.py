"""Line plots as SVG: sharp at any size, readable without scripts, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vaex.viz.report_html import Markup, element, embedded_json, joined

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 42
MOST_POINTS = 400
"""Longer lines are thinned out to so many points."""

SHORT = 6
"""A line that is less wide than this, in units of the drawing, ends in a point, which can be seen."""

LETTER = 6.2
"""Width of a digit at the axes, about."""

MARKED = "calibrated threshold"
"""What the mark on a line is called."""

Line = tuple[Sequence[float] | NDArray[np.float64], Sequence[float] | NDArray[np.float64]]


class Axis:
    """One axis: its range, whether it is logarithmic, and where a value lies on the page."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False) -> None:
        low, high = min(values), max(values)
        self.log, self.start, self.end = log, start, end
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
            low, high = low - 0.5, high + 0.5
        self.low, self.high = low, high

    def at(self, value: float) -> float:
        """Return the position of a value."""
        place = math.log10(value) if self.log else value
        return round(self.start + (self.end - self.start) * (place - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[float]:
        """Return a few round values within the range."""
        if self.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            inside = [value for value in values if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]
            return inside if len(inside) <= 6 else [v for v in inside if f"{v:e}".startswith("1")] or inside[:6]
        found = MaxNLocator(5).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(value) for value in found if self.low - slack <= value <= self.high + slack]


def line_plot(
    lines: Mapping[str, Line],
    title: str,
    x_label: str,
    y_label: str,
    *,
    unit: bool = False,
    diagonal: bool = False,
    curve: str | None = None,
    mark: int | None = None,
) -> Markup:
    """Return a figure of lines (x, y) by name, values that are not finite left out; a caption is its title.

    ``unit`` fixes both axes to [0, 1]; else y is logarithmic where it is positive and spans a factor of 50, and says
    so. ``curve`` names the slider that moves a dot along the first line, which then keeps its points; ``mark`` is the
    one of them that calibration chose.
    """
    clean = {name: _clean(line, keep=curve is not None) for name, line in lines.items()}
    clean = {name: line for name, line in clean.items() if line[0]}
    if not clean:
        return Markup("")
    xs = [x for line in clean.values() for x in line[0]]
    ys = [y for line in clean.values() for y in line[1]]
    log = not unit and min(ys) > 0 and max(ys) / min(ys) > 50
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    across = Axis([0, 1] if unit else xs, LEFT, right)
    up = Axis([0, 1] if unit else ys, bottom, TOP, log)
    parts: list[Markup] = [element("title", f"{title}: {y_label} against {x_label}")]
    for x in across.ticks():
        parts += [_segment(across.at(x), TOP, across.at(x), bottom, "grid"), _tick(f"{x:g}", across.at(x), bottom + 14)]
    for y in up.ticks():
        parts += [_segment(LEFT, up.at(y), right, up.at(y), "grid")]
        parts += [_text(f"{y:.6g}", LEFT - 5, up.at(y) + 4, "end")]
    parts += [_segment(LEFT, TOP, LEFT, bottom, "axis"), _segment(LEFT, bottom, right, bottom, "axis")]
    if diagonal:
        parts.append(_segment(across.at(0), up.at(0), across.at(1), up.at(1), "chance"))
    for number, line in enumerate(clean.values()):
        points = [(across.at(x), up.at(y)) for x, y in zip(*line, strict=True)]
        shown = " ".join(f"{x},{y}" for x, y in points)
        if len(points) > 1:
            parts.append(element("polyline", points=shown, class_=f"line s{number % 4}"))
        if curve is None and max(points)[0] - min(points)[0] < SHORT:
            parts.append(element("circle", cx=points[-1][0], cy=points[-1][1], r=4, class_=f"point s{number % 4}"))
        if mark is not None and number == 0:
            x, y = points[mark]
            diamond = f"M{x} {y - 8}L{x + 8} {y}L{x} {y + 8}L{x - 8} {y}Z"
            parts.append(element("path", element("title", MARKED), d=diamond, class_="mark"))
        if curve is not None and number == 0:
            parts.append(
                element(
                    "circle", r=6, class_="dot", data_curve=curve, data_points=embedded_json([list(p) for p in points])
                )
            )
    parts.append(_text(x_label, (LEFT + right) / 2, HEIGHT - 8))
    label = y_label + (" (log scale)" if log else "")
    parts.append(
        element("text", label, transform=f"translate(13 {(TOP + bottom) / 2}) rotate(-90)", text_anchor="middle")
    )
    drawn = element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {y_label} against {x_label}"
    )
    told = [title, _legend(list(clean))]
    if curve is not None:
        told.append(" (\N{BLACK CIRCLE} slider" + (", \N{WHITE DIAMOND} calibrated)" if mark is not None else ")"))
    return element("figure", drawn, element("figcaption", *told))


def _clean(line: Line, keep: bool) -> tuple[list[float], list[float]]:
    x, y = (np.asarray(values, np.float64) for values in line)
    if keep:  # a slider counts on the number of its points
        return x.tolist(), np.nan_to_num(y, nan=1.0).tolist()
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) > MOST_POINTS:
        chosen = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).astype(int))
        x, y = x[chosen], y[chosen]
    return x.tolist(), y.tolist()


def _legend(names: list[str]) -> Markup:
    if len(names) < 2:
        return Markup("")
    entries = []
    for number, name in enumerate(names):
        sample = element(
            "svg",
            _segment(0, 5, 24, 5, f"line s{number % 4}"),
            viewBox="0 0 24 10",
            style="width:24px;height:10px;display:inline",
            aria_hidden="true",
        )
        entries.append(joined([" \N{NO-BREAK SPACE}", sample, " ", name]))
    return joined(entries)


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _tick(text: str, x: float, y: float) -> Markup:
    """Write below the axis, centred, or up to the edge where the last letters would be cut off."""
    if x + LETTER * len(text) / 2 > WIDTH:
        return _text(text, WIDTH - 1, y, "end")
    return _text(text, x, y)


def _text(text: str, x: float, y: float, anchor: str = "middle") -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor)
