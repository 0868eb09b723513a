"""Paired tests against an enumeration of all signs, the closed forms of few pairs, and Holm's steps."""

from __future__ import annotations

import csv
import io
import math

import pytest

from tests.reporting.conftest import made
from vaex.errors import VaexError
from vaex.reporting.grid import csv_text, text_table
from vaex.reporting.groups import grouped
from vaex.reporting.paired import holm, p_cell, paired_grid, signed_rank_test, t_test


def signs_enumerated(differences: list[float]) -> float:
    """Return Wilcoxon's two-sided p: the share of all sign flips whose rank sum lies as far from the middle.

    Ranks count twice, so that those of ties are whole numbers.
    """
    numbers = [d for d in differences if d]
    sizes = sorted(abs(d) for d in numbers)
    ranks = [2 * sizes.index(abs(d)) + sizes.count(abs(d)) + 1 for d in numbers]
    seen = abs(2 * sum(rank for rank, d in zip(ranks, numbers, strict=True) if d > 0) - sum(ranks))
    totals = [0]
    for rank in ranks:
        totals += [total + rank for total in totals]
    return sum(abs(2 * total - sum(ranks)) >= seen for total in totals) / len(totals)


@pytest.mark.parametrize(
    "differences",
    [
        [0.1],
        [0.1, 0.2, 0.4],
        [0.5, -0.25, 0.125, 1.0, 2.0, -0.75],
        [1.0, 1.0, -1.0, 2.0, 2.0],  # ties
        [0.0, 0.0, 1.0, -2.0, 3.0, 4.0],  # no difference
        [-3.0, 1.0, 2.0],  # the middle itself
        [float((7 * n) % 11 - 4) for n in range(12)],
    ],
)
def test_signed_ranks(differences: list[float]) -> None:
    assert signed_rank_test(differences) == pytest.approx(signs_enumerated(differences))
    assert signed_rank_test([-d for d in differences]) == pytest.approx(signs_enumerated(differences))


def test_signed_ranks_of_many_pairs_with_ties_are_nearly_exact() -> None:
    differences = [float((5 * n) % 9 - 3) for n in range(17)]
    assert sum(d != 0 for d in differences) <= 16  # exact
    more = [*differences, 2.0, -1.0]
    assert sum(d != 0 for d in more) > 16
    found = signed_rank_test(more)
    assert found is not None
    assert found == pytest.approx(signs_enumerated(more), abs=0.02)


def test_signed_ranks_at_the_ends() -> None:
    assert signed_rank_test([]) is None
    assert signed_rank_test([0.0, 0.0]) == 1.0
    for count in (3, 5, 6):
        assert signed_rank_test([1.0 + n for n in range(count)]) == pytest.approx(2.0 ** (1 - count))


def t_of(differences: list[float]) -> float:
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return abs(mean) / math.sqrt(variance / len(differences))


def test_t_of_two_and_three_pairs() -> None:
    """Student's distribution has a closed form for one and two degrees of freedom."""
    two, three = [0.25, 1.0], [0.5, -0.25, 1.5]
    assert t_test(two) == pytest.approx(1 - 2 / math.pi * math.atan(t_of(two)))
    assert t_test(three) == pytest.approx(1 - t_of(three) / math.sqrt(2 + t_of(three) ** 2))


def test_t_without_spread_is_unknown() -> None:
    assert t_test([0.5]) is None
    assert t_test([0.5, 0.5, 0.5]) is None
    assert t_test([0.0, 0.0]) == 1.0


ROUNDED = [0.3 - 0.2, 0.2 - 0.1, 0.4 - 0.3, 0.8 - 0.7]


def test_differences_that_are_equal_but_for_rounding_have_no_spread() -> None:
    assert len(set(ROUNDED)) > 1
    assert t_test(ROUNDED) is None
    assert t_test([700.3 - 700.2, 812.2 - 812.1, 5.0 - 4.9], size=812.2) is None
    assert t_test([0.3 - 0.1 - 0.2, 0.0], size=0.3) == 1.0
    # A spread that is small and more than rounding counts
    small = [0.1, 0.1 + 1e-9, 0.1 - 2e-9]
    assert t_test(small) == pytest.approx(1 - t_of(small) / math.sqrt(2 + t_of(small) ** 2), abs=1e-9)


@pytest.mark.parametrize(
    ("rounded", "meant"),
    [
        (ROUNDED, [0.1] * 4),
        ([*ROUNDED, 0.1 - 0.3, 0.5 - 0.7], [0.1, 0.1, 0.1, 0.1, -0.2, -0.2]),
        ([0.1 + 0.2 - 0.3, 0.5, -0.25], [0.0, 0.5, -0.25]),
        ([*[0.3 - 0.2, 0.2 - 0.1] * 7, 0.1 - 0.2, 0.2 - 0.3, 0.5], [0.1] * 14 + [-0.1, -0.1, 0.5]),  # more than 16
    ],
)
def test_ranks_of_differences_that_are_equal_but_for_rounding_tie(rounded: list[float], meant: list[float]) -> None:
    assert signed_rank_test(rounded) == signed_rank_test(meant)
    if len(meant) <= 16:
        assert signed_rank_test(rounded) == pytest.approx(signs_enumerated(meant))


def test_the_table_knows_the_size_of_what_it_subtracts() -> None:
    values = {"a": (700.3, 812.2, 5.0), "b": (700.2, 812.1, 4.9)}
    runs = [made(name, seed, {"loss": value}) for name in "ab" for seed, value in enumerate(values[name])]
    (row,) = paired_grid(grouped(runs)[0], "test", ["loss"], "all").cells
    assert row[1] is None
    assert row[3] is not None
    assert row[3].mean == pytest.approx(0.25)


def test_holm_rejects_what_the_steps_reject() -> None:
    """At level a Holm's steps reject the smallest p while p <= a / number left, and stop at the first that is not."""
    values = [0.01, 0.04, 0.03, None, 0.005, 0.5]
    adjusted = holm(values)
    assert adjusted[3] is None
    known = [(p, position) for position, p in enumerate(values) if p is not None]
    for level in [n / 997 for n in range(1, 997)]:
        rejected: set[int] = set()
        for step, (p, position) in enumerate(sorted(known)):
            if p > level / (len(known) - step):
                break
            rejected.add(position)
        assert rejected == {n for n, p in enumerate(adjusted) if p is not None and p <= level}


A, B, C = ((0.9, 0.8, 0.7, 0.6), (0.8, 0.75, 0.6, 0.3), (0.5, 0.5))


def three() -> list[object]:
    return [
        *(made("a", seed, {"mig": value, "loss": 1.0}) for seed, value in enumerate(A)),
        *(made("b", seed, {"mig": value, "loss": 2.0 + seed}) for seed, value in enumerate(B)),
        *(made("c", seed + 3, {"mig": value}) for seed, value in enumerate(C)),  # seed 3 alone is shared
    ]


def test_pairs_are_of_the_same_seed() -> None:
    groups, _ = grouped(three())  # type: ignore[arg-type]
    grid = paired_grid(groups, "test", ["mig", "loss"], "all")
    assert grid.labels == (("b", "a", "mig", "4"), ("b", "a", "loss", "4"))
    difference, p, p_holm, ranks, ranks_holm = grid.cells[0]
    expected = [b - a for a, b in zip(A, B, strict=True)]
    assert difference is not None
    assert difference.values == pytest.approx(expected)
    assert difference.mean == pytest.approx(sum(expected) / 4)
    assert p is not None
    assert p.mean == t_test(expected)
    assert ranks is not None
    assert ranks.mean == pytest.approx(0.125)
    assert ranks_holm is not None
    assert ranks_holm.mean == pytest.approx(0.25)
    assert p_holm is not None
    other = grid.cells[1][1]
    assert other is not None
    assert p_holm.mean == pytest.approx(2 * p.mean if p.mean < other.mean else max(p.mean, 2 * other.mean))
    assert "never below 0.125" in grid.notes[-1]
    rows = list(csv.DictReader(io.StringIO(csv_text([grid]))))
    assert [row["mean"] for row in rows if row["column"] == "p (Wilcoxon)"] == ["0.125", "0.125"]
    assert text_table(grid).rows[0][:4] == ("b", "a", "mig", "4")


def test_against_one_experiment() -> None:
    groups, _ = grouped(three())  # type: ignore[arg-type]
    assert [label[:2] for label in paired_grid(groups, "test", ["mig"], "b").labels] == [("a", "b")]
    with pytest.raises(VaexError, match="Unknown experiment to compare with 'bb': did you mean 'b'"):
        paired_grid(groups, "test", ["mig"], "bb")
    with pytest.raises(VaexError, match="No two experiments share two seeds or more"):
        paired_grid(groups, "test", ["mig"], "c")


def test_categories_are_pairs_over_the_seeds_that_both_have() -> None:
    """Of bottle both have seeds 0 and 1, of tile seed 1 alone."""

    def run(name: str, category: str, seed: int, value: float) -> object:
        return made(f"{name}_{category}", seed, {"aupro": value}, data__category=category)

    runs = [
        *(
            run("a", "bottle", 0, 0.5),
            run("a", "bottle", 1, 0.7),
            run("a", "bottle", 2, 9.0),
            run("a", "tile", 1, 0.25),
        ),
        *(run("b", "bottle", 0, 0.6), run("b", "bottle", 1, 0.9), run("b", "tile", 0, 9.0), run("b", "tile", 1, 0.75)),
    ]
    groups, _ = grouped(runs, across=["data.category"])  # type: ignore[arg-type]
    (row,) = paired_grid(groups, "test", ["aupro"], "all", unit="categories").cells
    assert row[0] is not None
    assert row[0].values == pytest.approx([0.15, 0.5])


def test_a_value_that_is_not_finite_makes_no_pair() -> None:
    runs = [
        made(name, seed, {"mig": math.nan if (name, seed) == ("a", 1) else seed}) for name in "ab" for seed in range(3)
    ]
    groups, _ = grouped(runs)
    assert paired_grid(groups, "test", ["mig"], "all").labels == (("b", "a", "mig", "2"),)


@pytest.mark.parametrize(("p", "digits"), [(0.5, 4), (0.0012, 4), (0.00012, 5), (3e-8, 9), (0.0, 4)])
def test_a_small_p_shows_two_digits(p: float, digits: int) -> None:
    cell = p_cell(p)
    assert cell is not None
    assert cell.digits == digits
    assert p_cell(None) is None
