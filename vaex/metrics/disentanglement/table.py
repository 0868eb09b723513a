"""The table that every metric reads: one row per image, its code and its factors; and how rows are drawn from it."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vaex.errors import VaexError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TRAIN, TEST = 10_000, 5_000
"""Rows that a predictor is fitted to, and those that it is judged by."""
LARGEST = 1e15
"""Larger codes hold no fractions, even in float64; far beyond, solvers do not end and trees overflow."""


def is_whole(value: Any, least: int) -> bool:
    """Tell whether ``value`` is a whole number, ``least`` or more."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


class CodeTable(NamedTuple):
    """Codes (N, D) and factors (N, F) as classes 0..size-1, ``sizes`` (F,) being the numbers of values that occur.

    Both lie column by column in memory.
    """

    codes: Floats
    classes: Integers
    sizes: Integers


def code_table(codes: Any, factors: Any) -> CodeTable:
    """Return the table of ``codes`` (N, D) and ``factors`` (N, F), tensors or arrays of N images, any order.

    Factors are labels: whole numbers or other finite numbers, of which only equality and order count.

    Raises:
        VaexError: when lengths or dimensions do not fit, a value is not finite or a code beyond `LARGEST`, there are
            fewer than two images or two latents, or a factor is constant.
    """
    code, factor = _array(codes, "Codes", "(N, D)"), _array(factors, "Factors", "(N, F)")
    if len(code) != len(factor):
        raise VaexError(f"There are {len(code)} codes but factors of {len(factor)} images: give one row of each image.")
    if len(code) < 2:
        raise VaexError(f"Disentanglement needs the codes of many images, got {len(code)}: encode more.")
    if code.shape[1] < 2:
        raise VaexError(
            f"Disentanglement compares latents with one another, so it needs at least 2, got {code.shape[1]}: "
            "choose a model with more latents."
        )
    if factor.shape[1] < 1:
        raise VaexError("Factors (N, F) have no column: give at least one factor.")
    values = np.array(code, np.float64, order="F")
    if not max(values.max(), -values.min()) <= LARGEST:  # one value that is not a number makes both so
        row, latent = np.argwhere(~(np.abs(values) <= LARGEST))[0]
        finite = np.isfinite(found := values[row, latent])
        wanted, way = (f"at most {LARGEST:g} in size", ", or scale the codes") if finite else ("finite", "")
        raise VaexError(
            f"The code of image {row} is {found:g} at latent {latent}: codes must be {wanted}; check the model's "
            f"weights and its images{way}."
        )
    columns = [_classes(column, place) for place, column in enumerate(np.ascontiguousarray(factor.T))]
    classes = np.stack([column for column, _ in columns]).T
    return CodeTable(values, classes, np.array([size for _, size in columns], np.int64))


def _array(values: Any, name: str, shape: str) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # numpy knows no bf16
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise VaexError(f"{name} must be numbers {shape}, rows of one length, one per image.") from error
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise VaexError(f"{name} must be numbers {shape}, one row per image, got {array.dtype} of shape {array.shape}.")
    return array


def _classes(column: NDArray[Any], place: int) -> tuple[Integers, int]:
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise VaexError(f"Factor {place} holds values that are not finite: factors are labels, one number per class.")
    low, high = column.min(), column.max()
    if low == high:
        raise VaexError(
            f"Factor {place} has the same value {low} in all {len(column)} images: leave constant factors out, or "
            "encode images in which it varies."
        )
    if column.dtype.kind == "f" or int(high) - int(low) > 2**20 or int(high) >= 2**63:
        values, classes = np.unique(column, return_inverse=True)
        return classes.astype(np.int64), len(values)
    # Small whole numbers need no sorting
    shifted = column.astype(np.int64) - int(low) if low or column.dtype != np.int64 else column
    present = np.bincount(shifted) > 0
    if not present.all():
        shifted = (np.cumsum(present) - 1)[shifted]
    return shifted, int(present.sum())


class Split(NamedTuple):
    """Codes (N, D) and classes (N, F) of the images to fit to, and of others to judge by."""

    train: CodeTable
    test: CodeTable


def sample(table: CodeTable, seed: int, count: int = TRAIN) -> CodeTable:
    """Return at most ``count`` different rows of ``table``, drawn with ``seed``; all of them where it has no more.

    Raises:
        VaexError: when fewer than 2 are asked for, the seed is none, or a factor is constant among those drawn.
    """
    if not is_whole(count, 2):
        raise VaexError(f"Metrics need at least 2 images, a whole number, got {count!r}.")
    seeded(seed, 0)  # a wrong seed is told also where nothing is drawn
    if count >= len(table.codes):
        return table
    return _rows(table, _order(table, seed)[:count])


def drawn(table: CodeTable, seed: int, train: int = TRAIN, test: int = TEST) -> Split:
    """Return at most ``train`` and ``test`` different rows of ``table``, none of them in both parts.

    The first are those of `sample`. Where the table has fewer than both, it is divided in the same proportion.

    Raises:
        VaexError: when a number is out of range, or so few images come that a factor is constant among those fitted to.
    """
    if not (is_whole(train, 2) and is_whole(test, 1)):
        raise VaexError(
            f"Metrics need at least 2 images to fit to and 1 to judge by, whole numbers, got {train!r} and {test!r}."
        )
    total = len(table.codes)
    if total < 3:
        raise VaexError(f"This metric fits to some images and is judged by others, got {total} images: encode more.")
    if total < train + test:
        train = min(max(2, total * train // (train + test)), total - 1)
        test = total - train
    order = _order(table, seed)
    rows = order[train : train + test]
    judged = CodeTable(table.codes[rows], table.classes[rows], table.sizes)
    return Split(_rows(table, order[:train]), judged)


def seeded(seed: Any, stream: int) -> np.random.Generator:
    """Return the generator of one of the streams of draws of ``seed``.

    Raises:
        VaexError: for a seed that scikit-learn would not take either.
    """
    if not is_whole(seed, 0) or int(seed) >= 2**32:
        raise VaexError(f"seed must be a whole number from 0 to 4294967295, got {seed!r}.")
    return np.random.default_rng((int(seed), stream))


def _order(table: CodeTable, seed: int) -> Integers:
    return seeded(seed, 0).permutation(len(table.codes))


def _rows(table: CodeTable, rows: Integers) -> CodeTable:
    part = CodeTable(table.codes[rows], table.classes[rows], table.sizes)
    for place, column in enumerate(part.classes.T):
        if (column == column[0]).all():
            raise VaexError(
                f"{len(rows)} images are too few for this metric: factor {place} does not vary among them; encode "
                "more images."
            )
    return part


class RowDraws:
    """Draws rows of a table that share the value of a factor.

    On a table of every combination of factors this is how disentanglement_lib draws: the other factors are uniform and
    independent. A table in which a value has fewer than ``least`` rows is refused, unless it holds every combination.
    Differs: from a table of some images, rows that share the value are drawn, where the library makes new images.
    """

    def __init__(self, table: CodeTable, least: int) -> None:
        self.classes = table.classes
        total, sizes = len(table.classes), table.sizes.tolist()
        self._counts = [
            np.bincount(column, minlength=size) for column, size in zip(table.classes.T, sizes, strict=True)
        ]
        strides = np.array([math.prod(sizes[place + 1 :]) for place in range(len(sizes))])
        whole, in_order = _grid(table.classes, strides, math.prod(sizes))
        needed, way = (2, "") if whole else (least, ", or lower batch")
        for place, counts in enumerate(self._counts):
            if counts.min() < needed:
                raise VaexError(
                    f"Votes need at least {needed} images of each value of a factor, but value {counts.argmin()} of "
                    f"factor {place} occurs in {counts.min()} of {total} images: encode more images of it{way}."
                )
        # Rows of a whole grid in order are arithmetic; otherwise they are sorted by each factor
        self._strides = strides if in_order else None
        self._orders = []
        if self._strides is None:
            for column, size in zip(table.classes.T, sizes, strict=True):
                small = column.astype(np.min_scalar_type(size))  # of at most 16 bits sorted by radix
                self._orders.append(np.argsort(small, kind="stable"))

    def partners(self, generator: np.random.Generator, factor: int, rows: Integers, count: int) -> Integers:
        """Return ``count`` rows for each of ``rows`` (V,), drawn from those of its value of ``factor``: (V, n)."""
        counts = self._counts[factor]
        value = self.classes[rows, factor][:, None]
        # float32 would not reach every row of a large table
        place = (generator.random((len(rows), count)) * counts[value]).astype(np.int64)
        if self._strides is None:
            chosen: Integers = self._orders[factor][(np.cumsum(counts) - counts)[value] + place]
        else:
            stride = int(self._strides[factor])
            before, after = np.divmod(place, stride)  # what the factors before and after this one are
            chosen = (before * len(counts) + value) * stride + after
        return chosen

    def votes(self, generator: np.random.Generator, votes: int, batch: int) -> tuple[Integers, Integers]:
        """Return the fixed factor of each vote (V,), drawn uniformly, and its rows (V, batch)."""
        factors = generator.integers(len(self._counts), size=votes)
        first = generator.integers(len(self.classes), size=votes)
        rows = np.empty((votes, batch), np.int64)
        for factor in range(len(self._counts)):
            own = factors == factor
            rows[own] = self.partners(generator, factor, first[own], batch)
        return factors, rows

    def pairs(self, generator: np.random.Generator, votes: int, batch: int) -> tuple[Integers, Integers, Integers]:
        """Return the factor of each vote (V,), and rows (V, batch) twice, which agree in that factor pair by pair."""
        factors = generator.integers(len(self._counts), size=votes)
        first = generator.integers(len(self.classes), size=(votes, batch))
        second = np.empty_like(first)
        for factor in range(len(self._counts)):
            own = factors == factor
            second[own] = self.partners(generator, factor, first[own].ravel(), 1).reshape(-1, batch)
        return factors, first, second


def _grid(classes: Integers, strides: Integers, combinations: int) -> tuple[bool, bool]:
    """Return whether ``classes`` (N, F) hold every combination of values, and whether they are just these, in order."""
    if len(classes) < combinations:  # also keeps the table below small, and its indices within int64
        return False, False
    position = sum(column * stride for column, stride in zip(classes.T, strides.tolist(), strict=True))
    found = np.zeros(combinations, bool)
    found[position] = True
    return bool(found.all()), np.array_equal(position, np.arange(combinations))
