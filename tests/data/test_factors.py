"""FactorGrid against itertools.product, which enumerates the combinations in the same order by other means."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from vaex.data.factors import FactorGrid
from vaex.errors import VaexError

DSPRITES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}


@pytest.mark.parametrize("sizes", [(3, 2, 5), (1, 4, 1, 3), (7,), (2, 2, 2, 2, 2)])
def test_classes_enumerate_the_product_and_index_inverts_them(sizes: tuple[int, ...]) -> None:
    grid = FactorGrid({f"f{i}": size for i, size in enumerate(sizes)})
    expected = np.array(list(itertools.product(*(range(size) for size in sizes))))
    everything = np.arange(len(expected))
    assert len(grid) == len(expected)
    assert np.array_equal(grid.classes(everything), expected)
    assert np.array_equal(grid.index(expected), everything)
    assert grid.classes(everything).dtype == grid.index(expected).dtype == np.int64


def test_dsprites_grid_is_the_order_of_the_real_data_set() -> None:
    grid = FactorGrid(DSPRITES)
    assert len(grid) == 737_280
    assert grid.classes([32, 1024, 40 * 1024, 737_279]).tolist() == [
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [2, 5, 39, 31, 31],
    ]


def test_dsprites_classes_equal_those_in_the_archive(vaex_data: Path) -> None:
    with np.load(vaex_data / "dsprites" / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz") as archive:
        classes = archive["latents_classes"]
    grid = FactorGrid({"color": 1, **DSPRITES})
    assert np.array_equal(grid.classes(np.arange(len(grid))), classes)
    assert np.array_equal(grid.varying().classes(np.arange(len(grid))), classes[:, 1:])


def test_leading_shape_is_kept() -> None:
    grid = FactorGrid({"a": 3, "b": 4})
    assert grid.classes(5).tolist() == [1, 1]
    assert grid.classes(np.arange(12).reshape(3, 4)).shape == (3, 4, 2)
    assert grid.classes(np.array([], dtype=np.int64)).shape == (0, 2)


def test_varying_leaves_constant_factors_out_and_keeps_positions() -> None:
    full = FactorGrid({"a": 1, "b": 3, "c": 1, "d": 2}, {"a": 1, "b": 2})
    varying = full.varying()
    assert (varying.names, varying.sizes, varying.periods) == (("b", "d"), (3, 2), {"b": 2})
    assert np.array_equal(varying.classes(np.arange(6)), full.classes(np.arange(6))[:, [1, 3]])
    empty = FactorGrid({"a": 1}).varying()
    assert len(empty) == 1
    assert empty.classes([0, 0]).shape == (2, 0)


def test_step_moves_one_factor_by_one_and_turns_back_at_the_end() -> None:
    grid = FactorGrid({"a": 3, "b": 4, "c": 2})
    everything = np.arange(len(grid))
    for column, (name, size) in enumerate(zip(grid.names, grid.sizes, strict=True)):
        change = grid.classes(grid.step(everything, name)) - grid.classes(everything)
        last = grid.classes(everything)[:, column] == size - 1
        assert np.array_equal(change[:, column], np.where(last, -1, 1))
        assert not np.delete(change, column, axis=1).any()


def test_step_of_a_circular_factor_wraps_by_its_period() -> None:
    whole = FactorGrid({"a": 2, "turn": 5, "b": 3}, {"turn": 5})
    twice = FactorGrid({"a": 2, "turn": 5, "b": 3}, {"turn": 4})  # class 4 looks like class 0
    start = whole.index([[1, turn, 2] for turn in range(5)])
    assert whole.classes(whole.step(start, "turn")).tolist() == [[1, turn, 2] for turn in (1, 2, 3, 4, 0)]
    assert twice.classes(twice.step(start, "turn")).tolist() == [[1, turn, 2] for turn in (1, 2, 3, 0, 1)]


@pytest.mark.parametrize("wrong", [-1, 12, [0, 12], [3, -7]])
def test_index_out_of_range_is_refused(wrong: int | list[int]) -> None:
    grid = FactorGrid({"a": 3, "b": 4})
    with pytest.raises(VaexError, match=r"out of range: the grid has 12 images"):
        grid.classes(wrong)
    with pytest.raises(VaexError, match=r"out of range"):
        grid.step(wrong, "a")


def test_wrong_classes_are_refused() -> None:
    grid = FactorGrid({"a": 3, "b": 4})
    with pytest.raises(VaexError, match=r"Class 4 of factor 'b' is out of range: it must be in 0\.\.3"):
        grid.index([[0, 0], [2, 4]])
    with pytest.raises(VaexError, match=r"Class -1 of factor 'a'"):
        grid.index([[-1, 0]])
    with pytest.raises(VaexError, match=r"2 columns \(a, b\)"):
        grid.index([[0, 0, 0]])
    with pytest.raises(VaexError, match=r"whole numbers, got float64"):
        grid.index([[0.0, 1.0]])
    with pytest.raises(VaexError, match=r"whole numbers, got bool"):
        grid.classes([True])


def test_wrong_grids_and_steps_are_refused() -> None:
    for size in (0, -2, 2.0, True, "3", None):
        with pytest.raises(VaexError, match=r"size of factor 'b' must be a whole number of at least 1"):
            FactorGrid({"a": 3, "b": size})  # type: ignore[dict-item]
    with pytest.raises(VaexError, match=r"period of factor 'a' must be in 1\.\.3"):
        FactorGrid({"a": 3}, {"a": 4})
    with pytest.raises(VaexError, match=r"did you mean 'scale'"):
        FactorGrid({"scale": 3}, {"scal": 3})
    grid = FactorGrid({"scale": 3, "shape": 1})
    with pytest.raises(VaexError, match=r"did you mean 'scale'"):
        grid.step(0, "scal")
    with pytest.raises(VaexError, match=r"'shape' has one value only"):
        grid.step(0, "shape")
