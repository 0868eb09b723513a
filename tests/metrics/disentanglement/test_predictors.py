"""SAP, DCI and IRS against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.metrics.disentanglement import library
from tests.metrics.disentanglement.conftest import Case, grid
from vaex.errors import VaexError
from vaex.metrics.disentanglement import (
    dci,
    dci_forest,
    dci_forest_scores,
    dci_scores,
    irs,
    irs_scores,
    sap,
    sap_scores,
)
from vaex.metrics.disentanglement.importance import concentration, weighted
from vaex.metrics.disentanglement.interventions import robustness
from vaex.metrics.disentanglement.predictors import cut_accuracies, explained_variance
from vaex.metrics.disentanglement.table import code_table, drawn, sample


def test_sap_is_that_of_the_library_on_equal_rows(entangled: Case) -> None:
    codes, factors = entangled.codes[:, [0, 1, 5, 7]], entangled.factors[:, [0, 1, 4]]
    split = drawn(code_table(codes, factors), 1, 400, 300)
    table = library.sap_matrix(*split.train[:2], *split.test[:2])
    # the two solvers stop at slightly different cuts, which moves a few of 300 images
    np.testing.assert_allclose(cut_accuracies(split), table, atol=0.02)
    found = sap_scores(codes, factors, 1, train=400, test=300, threshold=0)
    assert found["sap"] == pytest.approx(library.top_two_gap(table), abs=0.02)
    correlations = library.correlation_matrix(*split.train[:2])
    np.testing.assert_allclose(explained_variance(split), correlations, atol=1e-12)
    assert found["sap_continuous"] == pytest.approx(library.top_two_gap(correlations), abs=1e-12)


@pytest.mark.slow
def test_sap_of_perfect_codes_is_the_librarys(dsprites: Any) -> None:
    """The value of the library's discrete variant, .231, moves by less than .01 with the rows that are drawn."""
    assert sap(dsprites, dsprites) == pytest.approx(0.231, abs=0.01)


def test_known_answers_of_sap() -> None:
    factors = np.tile(grid(2, 2), (50, 1))
    found = sap_scores(factors * 2.0 - 1, factors, train=100, test=100)
    assert found["sap"] == pytest.approx(0.5, abs=0.15)  # the other latent is right half of the time
    assert found["sap_continuous"] == pytest.approx(1, abs=0.1)
    noise = np.random.default_rng(0).standard_normal((200, 4))
    assert sap_scores(noise, factors)["sap_continuous"] < 0.1
    assert sap(factors, factors) > 0.3


def test_dci_of_importances_is_the_librarys() -> None:
    random = np.random.default_rng(0)
    for importance in (random.random((7, 4)), random.random((3, 5)) ** 8, np.eye(4), np.zeros((4, 3)), np.ones((5, 2))):
        disentanglement, completeness = library.dci(importance)
        assert weighted(importance) == pytest.approx(disentanglement, abs=1e-12)
        assert weighted(importance.T) == pytest.approx(completeness, abs=1e-12)
    assert concentration(np.array([[0.0, 2.0, 0.0], [1.0, 1.0, 1.0]])) == pytest.approx([1, 0], abs=1e-8)
    assert concentration(np.array([[3.0], [0.0]])).tolist() == [1, 1]
    assert all(concentration(np.zeros((2, count))).min() >= 0 for count in range(1, 50))  # rounding takes none below


def test_dci_looks_at_the_importances_of_boosted_trees(entangled: Case) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    codes, factors = entangled.codes[:, [1, 2, 5]], entangled.factors[:, :2] % 2  # a tree per stage, not one per class
    train, test = drawn(code_table(codes, factors), 4, 150, 100)
    models = [GradientBoostingClassifier(random_state=4).fit(train.codes, column) for column in train.classes.T]
    expected = library.dci(np.stack([model.feature_importances_ for model in models], 1))
    accuracies = [model.score(test.codes, column) for model, column in zip(models, test.classes.T, strict=True)]
    found = dci_scores(codes, factors, 4, train=150, test=100)
    assert (found["dci"], found["dci_completeness"]) == pytest.approx(expected, abs=1e-9)
    assert found["dci_informativeness"] == pytest.approx(np.mean(accuracies))
    assert found["dci_informativeness_train"] > found["dci_informativeness"]


def test_dci_of_perfect_codes_is_one_and_of_noise_nothing() -> None:
    halves = np.tile(grid(2, 2), (20, 1))
    assert dci(halves, halves) == pytest.approx(1, abs=1e-6)
    factors = np.tile(grid(3, 4), (40, 1))
    assert dci_forest(factors, factors) == pytest.approx(1, abs=1e-6)
    noise = np.random.default_rng(0).standard_normal((480, 4))
    found = dci_forest_scores(noise, factors)
    assert found["dci_forest"] < 0.05
    assert found["dci_forest_completeness"] < 0.1
    assert found["dci_forest_informativeness"] == pytest.approx((1 / 3 + 1 / 4) / 2, abs=0.12)
    assert found["dci_forest_informativeness_train"] > 0.4


@pytest.mark.parametrize("scores", [dci_scores, dci_forest_scores])
def test_dci_is_that_of_codes_wherever_they_lie(scores: Any, entangled: Case) -> None:
    """Codes of whole 1/256 keep every digit in float64 behind a shift, and lose all in float32, which trees read."""
    codes = np.round(entangled.codes[::8, [1, 2, 5]] * 256) / 256
    factors = entangled.factors[::8, :2] % 2
    assert len(np.unique((codes + 1e9).astype(np.float32))) < 3
    found = scores(codes, factors, 4)
    assert found[f"{scores.__name__.removesuffix('_scores')}_informativeness"] > 0.55
    assert scores(codes + 1e9, factors, 4) == pytest.approx(found, abs=1e-9)


def test_irs_is_that_of_the_library_on_equal_rows(entangled: Case) -> None:
    part = sample(code_table(*entangled), 2, 1500)
    found = irs_scores(*entangled, 2, train=1500, threshold=0)  # the library leaves out those that are constant
    assert found["irs"] == pytest.approx(library.irs(part.codes, part.classes), abs=1e-12)
    assert found["irs_active_latents"] == 7
    codes, factors = entangled.codes[:, :6], entangled.factors  # none of them collapsed
    assert irs(codes, factors) == pytest.approx(library.irs(codes, factors), abs=1e-12)
    # more values than bins
    many = np.column_stack([np.arange(400) % 50, np.arange(400) // 50])
    codes = np.random.default_rng(1).standard_normal((400, 3)) + many[:, :1]
    assert irs(codes, many) == pytest.approx(library.irs(codes, many), abs=1e-12)


def test_known_answers_of_irs() -> None:
    factors = grid(4, 5)
    assert irs(factors, factors) == pytest.approx(1)  # a latent does not move while its own factor stands still
    assert irs_scores(np.full((20, 2), 0.5), factors)["irs"] == 0
    moved = robustness(factors[:, :1].astype(float), factors).matrix
    assert moved[0, 0] == 1
    assert moved[0, 1] == pytest.approx(0, abs=0.05)  # all of its range, whatever the other factor is
    with pytest.raises(VaexError, match="quantile"):
        irs_scores(factors, factors, quantile=1.5)


@pytest.mark.parametrize("options", [{"trees": 0}, {"leaf": 0}])
def test_forests_that_cannot_be_grown_are_told(options: dict[str, int], entangled: Case) -> None:
    with pytest.raises(VaexError, match="dci_forest needs trees and leaf of at least 1, got"):
        dci_forest_scores(*entangled, **options)
