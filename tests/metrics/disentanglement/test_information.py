"""Mutual information, MIG and modularity against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from tests.metrics.disentanglement import library
from tests.metrics.disentanglement.conftest import Case, grid
from vaex.errors import VaexError
from vaex.metrics.disentanglement import information_matrix, mig, mig_scores, modularity, modularity_scores
from vaex.metrics.disentanglement.information import (
    binned,
    counted_together,
    gaps,
    modularities,
    mutual_information,
)
from vaex.metrics.disentanglement.table import code_table, drawn, sample


@pytest.mark.parametrize("bins", [1, 2, 7, 20])
def test_bins_are_those_of_a_histogram(bins: int, entangled: Case) -> None:
    random = np.random.default_rng(0)
    columns = [random.standard_normal(500), random.integers(0, 21, 500), np.arange(500) / 10, np.full(500, 0.1)]
    codes = np.column_stack([*columns, 1e6 + columns[0]])
    expected = np.column_stack([library.histogram_bins(column, bins) - 1 for column in codes.T])
    np.testing.assert_array_equal(binned(codes, bins), expected)


def test_information_is_that_of_the_definition_and_of_scikit_learn(entangled: Case) -> None:
    discrete = binned(entangled.codes)
    found = mutual_information(discrete, entangled.factors)
    np.testing.assert_allclose(found, library.information_table(*entangled), atol=1e-12)
    peer = np.array([[mutual_info_score(factor, latent) for factor in entangled.factors.T] for latent in discrete.T])
    np.testing.assert_allclose(found, peer, atol=1e-12)


@pytest.mark.parametrize(("images", "sizes"), [(2, (2,)), (60, (3, 2)), (900, (2, 50, 2, 3, 2)), (5000, (2,) * 7)])
def test_information_does_not_depend_on_what_is_counted_together(images: int, sizes: tuple[int, ...]) -> None:
    random: Any = np.random.default_rng(0)
    factors = np.column_stack([random.integers(0, size, images) for size in sizes])
    discrete = np.column_stack([random.integers(0, 20, images), factors[:, 0], np.zeros(images, np.int64)])
    peer = np.array([[mutual_info_score(factor, latent) for factor in factors.T] for latent in discrete.T])
    np.testing.assert_allclose(mutual_information(discrete, factors), peer, atol=1e-12)


@pytest.mark.parametrize("limit", [0, 5, 18, 250, 10**6])
def test_factors_counted_together_stay_within_the_limit(limit: int) -> None:
    sizes = (3, 6, 40, 32, 32)
    groups = counted_together(sizes, limit)
    assert sorted(place for group in groups for place in group) == [0, 1, 2, 3, 4]
    assert all(len(group) == 1 or math.prod(sizes[place] for place in group) <= limit for group in groups)
    assert len(groups) == {0: 5, 5: 5, 18: 4, 250: 3, 10**6: 1}[limit]


def test_mig_is_that_of_the_library_on_equal_rows(entangled: Case) -> None:
    part = sample(code_table(*entangled), 3, 1000)
    found = mig_scores(*entangled, 3, train=1000, threshold=0)
    assert found["mig"] == pytest.approx(library.mig(part.codes, part.classes), abs=1e-12)
    assert found["mig"] == pytest.approx(np.mean([found[f"mig_{k}"] for k in range(5)]))
    codes, factors = entangled.codes[:, :6], entangled.factors  # none of them collapsed
    assert mig(codes, factors, 3) == pytest.approx(library.mig(codes, factors), abs=1e-12)  # all rows: under 10,000


def test_modularity_is_that_of_the_library_on_equal_rows(entangled: Case) -> None:
    codes, factors = entangled.codes[:, :6], entangled.factors  # none of them collapsed
    part = sample(code_table(codes, factors), 3, 1000)
    found = modularity_scores(codes, factors, 3, train=1000, test=500)
    assert found["modularity"] == pytest.approx(library.modularity(part.codes, part.classes), abs=1e-12)
    assert modularity(codes, factors) == pytest.approx(library.modularity(codes, factors), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_explicitness_of_too_few_images_is_told(seed: int) -> None:
    """By sets: the first factor of which no value that was fitted to divides the images to judge by."""
    factors = grid(3, 4, 6, 5)
    factors = factors[np.random.default_rng(seed).permutation(len(factors))[: 7 + seed % 3]]
    train, test = (part.classes for part in drawn(code_table(factors, factors), 0))
    for factor in range(4):
        judged = set(test[:, factor].tolist())
        if len(judged) < 2 or not judged & set(train[:, factor].tolist()):
            told = f"a value of factor {factor} that some of the {len(test)} images to judge by .* encode more images"
            with pytest.raises(VaexError, match=told):
                modularity_scores(factors, factors)
            break
    else:
        assert np.isfinite(list(modularity_scores(factors, factors).values())).all()


def test_explicitness_is_that_of_the_library_on_equal_rows(entangled: Case) -> None:
    codes, factors = entangled.codes[:, 1:6], entangled.factors[:, [0, 2]]
    train, test = drawn(code_table(codes, factors), 3, 600, 400)
    found = modularity_scores(codes, factors, 3, train=600, test=400)
    assert found["explicitness"] == pytest.approx(library.explicitness(*train[:2], *test[:2]), abs=1e-9)
    assert found["explicitness_train"] == pytest.approx(library.explicitness(*train[:2], *train[:2]), abs=1e-9)
    assert 0.5 < found["explicitness"] < 1


def test_known_answers_of_perfect_codes(dsprites: Any) -> None:
    # 20 bins of 32 positions: 12 hold two values and 8 one; of 40 orientations each holds two
    positions = (24 * math.log(16) + 8 * math.log(32)) / 32 / math.log(32)
    orientation = math.log(20) / math.log(40)
    whole = mutual_information(binned(dsprites.astype(float)), dsprites)
    expected = np.array([1, 1, orientation, positions, positions])
    np.testing.assert_allclose(gaps(whole, dsprites), expected, atol=1e-9)
    assert mig(dsprites, dsprites) == pytest.approx(0.896, abs=2e-3)
    assert modularities(whole) == pytest.approx(np.ones(5), abs=1e-9)
    assert modularity(dsprites, dsprites) == pytest.approx(1, abs=1e-3)


def test_known_answers_of_small_tables() -> None:
    factors = grid(2, 2)
    half = np.column_stack([factors[:, 0], factors[:, 0] ^ factors[:, 1]])  # of factor 1 alone neither tells anything
    expected = np.array([[math.log(2), 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(information_matrix(half, factors), expected, atol=1e-12)
    assert mig(half, factors) == pytest.approx(0.5)
    assert modularity(half, factors) == pytest.approx(0.5)  # a latent without information counts 0
    twice = np.column_stack([factors, factors])
    assert mig(twice, factors) == pytest.approx(0)
    both = 2 * factors[:, :1] + factors[:, 1:]
    assert modularity(np.column_stack([both, both]), factors) == pytest.approx(0)


def test_noise_is_near_chance(dsprites: Any) -> None:
    noise = np.random.default_rng(0).standard_normal((len(dsprites) // 7 + 1, 10))
    few = dsprites[::7]
    assert mig(noise, few) < 0.005
    assert modularity_scores(noise, few[:, :2], train=3000, test=1500)["explicitness"] == pytest.approx(0.5, abs=0.03)


def test_wrong_bins_are_told(entangled: Case) -> None:
    with pytest.raises(VaexError, match="bins must be a whole number, at least 1"):
        mig_scores(*entangled, bins=0)
