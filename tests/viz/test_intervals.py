"""The picture of seeds: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.lines import Line2D
from matplotlib.text import Text

from vaex.errors import VaexError
from vaex.viz import Dots, figure_to_array, intervals_figure


def places(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist()


def test_dots_mean_and_interval_stand_in_their_line() -> None:
    entries = [None, Dots(0.5, (0.4, 0.6), 0.2, 0.8)]
    figure = intervals_figure(["a", "b"], [("m", {"": entries})])
    lines = [places(line) for line in figure.axes[0].lines]
    assert lines == [([0.2, 0.8], [1.0, 1.0]), ([0.5], [1.0]), ([0.4, 0.6], [1.0, 1.0])]
    assert figure_to_array(figure).std() > 0


def test_lines_run_from_top_to_bottom_and_series_do_not_overlap() -> None:
    figure = intervals_figure(["a"], [("m", {"x": [Dots(0.5, (0.5,))], "y": [Dots(0.5, (0.5,))]})])
    low, high = figure.axes[0].get_ylim()
    assert low > high
    dots = [places(line) for line in figure.axes[0].lines if line.get_marker() == "o"]
    rows = [y[0] for x, y in dots if x]
    assert len(set(rows)) == 2
    assert all(-0.5 < row < 0.5 for row in rows)


@pytest.mark.parametrize(("labels", "panels"), [([], []), (["a"], []), (["a"], [("m", {"": []})])])
def test_what_cannot_be_drawn_is_told(labels: list[str], panels: list[tuple[str, dict[str, list[None]]]]) -> None:
    with pytest.raises(VaexError, match="entries in every series"):
        intervals_figure(labels, panels)


def test_names_that_look_like_formulas_are_drawn_as_they_are() -> None:
    """Matplotlib would read what stands between dollar signs as mathematics, and stop at what is none."""
    name = r"a$\evil{$b"
    figure = intervals_figure([name, "x"], [(name, {name: [Dots(1.0), Dots(2.0)], "y": [Dots(1.0), Dots(2.0)]})])
    figure.canvas.draw()
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert name in shown
