"""Collapsed latents take no part in any metric, and are counted; where there are none, nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.metrics.disentanglement import library
from tests.metrics.disentanglement.conftest import Case, grid
from vaex.errors import VaexError
from vaex.metrics.disentanglement import irs, mig, modularity, sap_scores
from vaex.metrics.disentanglement.collection import SCORES
from vaex.metrics.disentanglement.pruning import pruned_table, variance, varies_plainly

SMALL: dict[str, Any] = {  # sizes at which a metric takes little time
    "factor_vae": {"votes": (200, 100)},
    "beta_vae": {"votes": (200, 100)},
    "dci": {"train": 60, "test": 30},
    "dci_forest": {"train": 200, "test": 100, "trees": 3},
    "sap": {"train": 200, "test": 100},
    "modularity": {"train": 200, "test": 100},
}
WIDTH = {"dci_completeness", "dci_forest_completeness"}
"""Shares of the entropy over all latents, pruned or not."""


def measured(name: str, codes: Any, factors: Any, **options: Any) -> dict[str, float]:
    return SCORES[name](codes, factors, 1, **SMALL.get(name, {}), **options)


@pytest.fixture(scope="module")
def narrow() -> Case:
    """Three latents in use, one that tells of a factor in tiny values, one constant; of factors of few values."""
    factors = np.tile(grid(3, 4), (60, 1))
    random: Any = np.random.default_rng(2)
    codes = np.column_stack([factors[:, 0], factors[:, 1] + 0.5 * factors[:, 0], np.zeros(len(factors))]).astype(float)
    codes += 0.6 * random.standard_normal(codes.shape)
    return Case(np.column_stack([codes, 0.01 * factors[:, 1], np.full(len(factors), 0.1)]), factors)


@pytest.mark.parametrize("name", SCORES)
def test_collapsed_latents_change_nothing_and_are_counted(name: str, narrow: Case) -> None:
    codes, factors = narrow
    found, without = measured(name, codes, factors), measured(name, codes[:, :3], factors)
    assert [part.pop(f"{name}_pruned_latents") for part in (found, without)] == [2, 0]
    assert {part.pop(f"{name}_active_latents", 3) for part in (found, without)} == {3}  # of two metrics
    assert found.keys() == without.keys()
    for key in found.keys() - WIDTH:
        # boosted trees look at latents in a random order, which decides between equal splits
        assert found[key] == pytest.approx(without[key], abs=0.05 if name == "dci" else 1e-6), key


@pytest.mark.parametrize("name", [name for name in SCORES if name != "dci"])
def test_the_threshold_decides(name: str, narrow: Case) -> None:
    assert measured(name, *narrow, threshold=0)[f"{name}_pruned_latents"] == 1  # the constant one
    for threshold in (-0.1, float("nan"), float("inf")):
        with pytest.raises(VaexError, match="threshold is a standard deviation of 0 or more"):
            measured(name, *narrow, threshold=threshold)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "dci"])
def test_codes_of_which_all_have_collapsed_score_as_no_code(name: str, narrow: Case) -> None:
    found = measured(name, narrow.codes * 1e-3, narrow.factors)
    assert found[f"{name}_pruned_latents"] == 5
    if name == "beta_vae":
        assert found[name] == pytest.approx(0.5, abs=0.15)  # chance of two factors
    else:
        assert found[name] == pytest.approx(0, abs=1e-9)


def test_values_are_those_of_the_definitions_without_the_latents(entangled: Case) -> None:
    codes, factors = entangled
    used = codes[:, codes.std(0) > 0.05]
    assert used.shape[1] == 6
    assert mig(codes, factors) == pytest.approx(library.mig(used, factors), abs=1e-12)
    assert mig(codes, factors) < library.mig(codes, factors) - 0.1  # tiny values told of a factor
    assert modularity(codes, factors) == pytest.approx(library.modularity(used, factors), abs=1e-12)
    assert irs(codes, factors) == pytest.approx(library.irs(used, factors), abs=1e-12)


def test_a_single_latent_in_use_competes_with_chance() -> None:
    factors = np.tile(grid(2, 2), (100, 1))
    codes = np.column_stack([factors[:, 0] * 2.0 - 1, 1e-3 * factors[:, 1]])
    assert mig(codes, factors) == pytest.approx(0.5)  # all of one factor, nothing of the other
    found = sap_scores(codes, factors, train=200, test=200)
    assert found["sap"] == pytest.approx(0.25, abs=0.06)  # of one factor right against half right, of the other even
    assert found["sap_continuous"] == pytest.approx(0.5, abs=0.05)


def test_the_variance_is_numpys_and_exactly_nothing_of_constants(entangled: Case) -> None:
    for column in entangled.codes[:, :7].T:
        assert variance(column, column - column.mean()) == pytest.approx(column.var(ddof=1), rel=1e-12)
    flat = np.full(1000, 0.1)
    assert variance(flat, flat - flat.mean()) == 0


@pytest.mark.parametrize("offset", [0.0, 7.0, 1e6, 1e12, 1e14])
def test_which_latents_are_used_is_decided_by_the_exact_variance(offset: float) -> None:
    random: Any = np.random.default_rng(0)
    spreads = np.array([0.0, 1e-6, 0.04, 0.0499, 0.0501, 0.06, 0.2, 3.0, 1e5])
    unit = random.standard_normal((500, len(spreads)))
    unit = (unit - unit.mean(0)) / unit.std(0, ddof=1)
    codes = spreads * unit + offset
    exact = np.array([np.std(column - column[0], ddof=1) for column in codes.T])
    used = pruned_table(codes, np.arange(500)[:, None] % 2).used
    np.testing.assert_array_equal(used, exact >= 0.05)
    plain = varies_plainly(codes, 0.05)
    assert not any(plain & ~used)
    assert any(plain) is (offset < 1e9)


def test_an_eighth_of_the_images_proves_no_more_than_all_of_them_do() -> None:
    random: Any = np.random.default_rng(0)
    codes = np.zeros((4096, 4))
    codes[::8, 0] = 0.09 * random.standard_normal(512)  # varies there alone: .032 over all
    codes[::8, 1] = 0.30 * random.standard_normal(512)  # .106 over all
    codes[:, 2] = np.repeat([0.0, 1.0], 2048) * (np.arange(4096) % 8 > 0)  # stands still there
    codes[:, 3] = random.standard_normal(4096)
    assert varies_plainly(codes, 0.05).tolist() == [False, True, False, True]
    used = pruned_table(codes, np.arange(4096)[:, None] % 2).used
    np.testing.assert_array_equal(used, codes.std(0, ddof=1) >= 0.05)
    assert used.tolist() == [False, True, True, True]


def test_the_callers_codes_are_left_alone(entangled: Case) -> None:
    before = entangled.codes.copy()
    table, used = pruned_table(*entangled)
    assert used.tolist() == [True] * 6 + [False] * 2
    assert (table.codes[:, 6:] == 0).all()
    np.testing.assert_array_equal(entangled.codes, before)
