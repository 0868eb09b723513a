"""The rewritten algorithms of `vaex bench what=disentanglement` are right, and its tables say what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from tests.metrics.disentanglement import library as oracle
from vaex.benchmarks.disentanglement_lib import (
    Grid,
    beta_vae_by_points,
    factor_vae_by_votes,
    irs_by_groups,
    mig_by_pairs,
    modularity_by_pairs,
)
from vaex.benchmarks.disentangling import (
    LIBRARY,
    VAEX,
    Pair,
    Result,
    disentanglement_content,
    disentanglement_tables,
    drawn_codes,
    run_disentanglement,
)
from vaex.benchmarks.timing import Timing
from vaex.errors import VaexError

SMALL = (2, 3, 4, 5)


def test_drawn_codes_are_a_whole_grid_in_order() -> None:
    grid = drawn_codes(SMALL, 6)
    assert grid.codes.shape == (120, 6)
    assert (np.ravel_multi_index(tuple(grid.factors.T), SMALL) == np.arange(120)).all()
    for factor in range(4):
        assert np.corrcoef(grid.codes[:, factor], grid.factors[:, factor])[0, 1] > 0.8
    with pytest.raises(VaexError, match="at least 4 latents, got 3"):
        drawn_codes(SMALL, 3)


def test_rewritten_algorithms_are_the_definitions() -> None:
    grid = drawn_codes(SMALL, 6)
    codes, factors = grid.codes.astype(np.float64), grid.factors
    assert mig_by_pairs(codes, factors) == pytest.approx(oracle.mig(codes, factors), abs=1e-9)
    assert modularity_by_pairs(codes, factors) == pytest.approx(oracle.modularity(codes, factors), abs=1e-9)
    assert irs_by_groups(codes, factors) == pytest.approx(oracle.irs(codes, factors), abs=1e-9)


def test_votes_of_the_rewritten_algorithms_know_perfect_codes_and_noise() -> None:
    factors = np.indices(SMALL).reshape(4, -1).T
    perfect = Grid(factors.astype(np.float64), factors, SMALL)
    noise = Grid(np.random.default_rng(0).standard_normal((120, 6)), factors, SMALL)
    assert factor_vae_by_votes(perfect, 0, (200, 100)) == 1
    assert beta_vae_by_points(perfect, 0, (400, 100)) == 1
    assert factor_vae_by_votes(noise, 0, (400, 200)) < 0.7  # few images: noise tells some of them apart
    assert beta_vae_by_points(noise, 0, (400, 200), 16) < 0.6


def test_goals_are_judged_by_the_median() -> None:
    def pair(ratio: float) -> Pair:
        timings = {LIBRARY: Timing((2.0,), (1.0,)), VAEX: Timing((2.0 * ratio,), (ratio,))}
        return Pair(timings, {LIBRARY: 0.5, VAEX: 0.25})

    result = Result(
        {"factor_vae": pair(0.1), "mig": pair(0.025), "irs": pair(2.0)},
        {"mig": (59.0, 90.0), "sap": (2.0, 1.5)},
        7,
        "case",
    )
    speeds, together = disentanglement_tables(result)
    rows = {row[0]: row[1:] for row in speeds.rows}
    assert rows["factor_vae"] == ("2000.0", "200.0", "10.0", "10.0-10.0", ">= 6 met", "0.5000", "0.2500")
    assert rows["mig"][4] == ">= 50 MISSED"
    assert rows["irs"][2:5] == ("0.5", "0.5-0.5", "-")
    assert together.rows[-1] == ("together", "61.00", "91.50", "<= 60 MISSED")
    assert disentanglement_content(result)["metrics"]["mig"]["ratio"]["median"] == 0.025


def test_more_codes_than_there_are_is_told() -> None:
    with pytest.raises(VaexError, match="at most 120"):
        run_disentanglement(1, 121, SMALL)
