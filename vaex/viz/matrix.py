"""A matrix of numbers as a picture, such as the mutual information of latents and factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vaex.errors import VaexError


def matrix_figure(
    values: ArrayLike, rows: Sequence[str], columns: Sequence[str], title: str = "", scale: str = ""
) -> Figure:
    """Return the matrix ``values`` (rows, columns), 0 or more, as cells from white to dark, each with its number.

    ``scale`` names the unit beside the colour bar, which begins at 0.

    Raises:
        VaexError: when the names do not fit the shape, or a value is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape != (len(rows), len(columns)) or array.size == 0:
        raise VaexError(f"A matrix of {len(rows)} rows and {len(columns)} columns is wanted, got {array.shape}.")
    if not np.isfinite(array).all():
        raise VaexError("The matrix holds values that are not finite and cannot be drawn.")
    figure = Figure(figsize=(1.9 + 0.75 * len(columns), 1.3 + 0.32 * len(rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    top = max(float(array.max()), 1e-12)
    shown = axes.imshow(array, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    for row, column in np.ndindex(*array.shape):
        value = array[row, column]
        color = "white" if value > 0.6 * top else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_title(title, fontsize=9, parse_math=False)
    figure.colorbar(shown, ax=axes).set_label(scale, parse_math=False)
    return figure
