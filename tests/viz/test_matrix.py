"""The matrix picture: a cell per number, darker where larger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from vaex.errors import VaexError
from vaex.viz import figure_to_array
from vaex.viz.matrix import matrix_figure


def test_cells_carry_their_numbers_and_shade() -> None:
    values = np.array([[0.0, 0.5], [1.25, 0.25], [0.1, 2.0]])
    figure = matrix_figure(values, ["a", "b", "c"], ["x", "y"], "Title", "nats")
    axes: Any = figure.axes[0]
    texts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert texts == {(r, c): f"{values[r, c]:.2f}" for r in range(3) for c in range(2)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array(), values)
    assert image.get_clim() == (0, 2)
    assert figure.axes[1].get_ylabel() == "nats"
    picture = figure_to_array(figure)
    assert picture.min() < 100
    assert picture.shape[2] == 3


def test_nothing_at_all_is_white() -> None:
    axes: Any = matrix_figure(np.zeros((1, 1)), ["a"], ["x"]).axes[0]
    assert axes.images[0].get_clim()[1] > 0
    assert axes.texts[0].get_color() == "black"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3)), r"2 rows and 2 columns is wanted, got \(2, 3\)"),
        (np.zeros(4), r"got \(4,\)"),
        (np.array([[1, np.nan], [0, 0]]), "not finite"),
    ],
)
def test_wrong_matrices_are_told(values: Any, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        matrix_figure(values, ["a", "b"], ["x", "y"])


def test_names_that_look_like_formulas_are_drawn_as_they_are() -> None:
    name = r"a$\evil{$b"
    figure = matrix_figure(np.array([[1.0]]), [name], [name], name, name)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.findobj(Text)].count(name) >= 3
