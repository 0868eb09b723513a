"""A grid of generative factors: which index in the data set is which combination of factor classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaex.errors import VaexError, unknown


def integers(what: str, values: ArrayLike) -> NDArray[np.int64]:
    """Return ``values`` as int64 and refuse anything that is not a whole number, such as a float or a boolean."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise VaexError(f"{what} must be whole numbers, got {array.dtype}; convert them to int64 first.")
    return array.astype(np.int64)


class FactorGrid:
    """Every combination of factor classes, numbered in mixed radix with the last factor varying fastest.

    ``sizes`` maps the F factor names to their numbers of classes; ``len`` is the product of them. ``periods`` names the
    circular factors with the number of steps after which they are back where they began: an orientation of 40 values in
    which the last equals the first has period 39.

    Raises:
        VaexError: when a size is not a whole number of at least 1, or a period is not in 1..size.
    """

    def __init__(self, sizes: Mapping[str, int], periods: Mapping[str, int] | None = None) -> None:
        for name, size in sizes.items():
            if not _is_count(size):
                raise VaexError(f"The size of factor '{name}' must be a whole number of at least 1, got {size!r}.")
        for name, period in (periods or {}).items():
            if name not in sizes:
                raise unknown("factor", name, sizes)
            if not _is_count(period) or period > sizes[name]:
                raise VaexError(f"The period of factor '{name}' must be in 1..{sizes[name]}, its size, got {period!r}.")
        self.names = tuple(sizes)
        self.sizes = tuple(int(size) for size in sizes.values())
        self.periods = dict(periods or {})
        self._sizes = np.array(self.sizes, dtype=np.int64)
        self._strides = np.array([math.prod(self.sizes[i + 1 :]) for i in range(len(sizes))], dtype=np.int64)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def varying(self) -> FactorGrid:
        """Return the grid without its constant factors; an index means the same image in both."""
        sizes = {name: size for name, size in zip(self.names, self.sizes, strict=True) if size > 1}
        periods = {name: period for name, period in self.periods.items() if name in sizes}
        return FactorGrid(sizes, periods)

    def classes(self, index: ArrayLike) -> NDArray[np.int64]:
        """Classes (N, F) int64 of the images at ``index`` (N,); any leading shape works.

        Raises:
            VaexError: when an index is not a whole number in 0..len-1.
        """
        return self.known_classes(self._checked(index))

    def known_classes(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes (N, F) int64 as `classes` gives them, of an index (N,) that is known to be in range."""
        return index[..., None] // self._strides % self._sizes

    def index(self, classes: ArrayLike) -> NDArray[np.int64]:
        """Positions (N,) int64 of the images with ``classes`` (N, F), the inverse of `classes`.

        Raises:
            VaexError: when there are not F columns, or a class is not a whole number in 0..size-1.
        """
        table = integers("Factor classes", classes)
        if table.ndim == 0 or table.shape[-1] != len(self.names):
            raise VaexError(
                f"Factor classes must have {len(self.names)} columns ({', '.join(self.names)}), got {table.shape}."
            )
        wrong = (table < 0) | (table >= self._sizes)
        if wrong.any():
            *_, column = np.argwhere(wrong)[0]
            raise VaexError(
                f"Class {table[wrong][0]} of factor '{self.names[column]}' is out of range: "
                f"it must be in 0..{self.sizes[column] - 1}."
            )
        positions: NDArray[np.int64] = table @ self._strides
        return positions

    def step(self, index: ArrayLike, name: str) -> NDArray[np.int64]:
        """Positions (N,) of the images whose factor ``name`` is one step further, all other factors unchanged.

        A circular factor wraps around. Any other one steps back from its last class, so that every image has a
        neighbour that differs.

        Raises:
            VaexError: when the factor is unknown or has a single value, or an index is out of range.
        """
        if name not in self.names:
            raise unknown("factor", name, self.names)
        column = self.names.index(name)
        size, stride = self.sizes[column], self._strides[column]
        period = self.periods.get(name)
        if (period or size) == 1:
            raise VaexError(f"Factor '{name}' has one value only and cannot move; choose one of size 2 or more.")
        flat = self._checked(index)
        now = flat // stride % size
        then = (now + 1) % period if period else np.where(now + 1 < size, now + 1, now - 1)
        moved: NDArray[np.int64] = flat + (then - now) * stride
        return moved

    def _checked(self, index: ArrayLike) -> NDArray[np.int64]:
        flat = integers("Image indices", index)
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            wrong = flat.min() if flat.min() < 0 else flat.max()
            raise VaexError(
                f"Image index {wrong} is out of range: the grid has {len(self)} images, 0..{len(self) - 1}."
            )
        return flat


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1
