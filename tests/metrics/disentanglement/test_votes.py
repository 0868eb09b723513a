"""FactorVAE and beta-VAE scores against one vote at a time, and the draws against what they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.metrics.disentanglement import library
from tests.metrics.disentanglement.conftest import Case, grid
from vaex.errors import VaexError
from vaex.metrics.disentanglement import beta_vae, beta_vae_scores, factor_vae, factor_vae_scores
from vaex.metrics.disentanglement.table import RowDraws, code_table
from vaex.metrics.disentanglement.votes import centred, least_varying, mean_distances


def test_votes_are_those_of_one_vote_at_a_time(entangled: Case) -> None:
    table = code_table(*entangled)
    offsets, variances = centred(table.codes)
    np.testing.assert_allclose(offsets.T, table.codes - table.codes.mean(0), atol=1e-6)
    np.testing.assert_allclose(variances, table.codes.var(0, ddof=1), rtol=1e-12, atol=1e-30)
    assert variances[7] == 0  # of a constant that has no exact mean
    active = np.sqrt(variances) >= 0.05
    _, rows = RowDraws(table, 64).votes(np.random.default_rng(3), 700, 64)  # more than two chunks
    found = least_varying(offsets[active], rows, variances[active])
    expected = [library.factor_vote(entangled.codes, vote, variances, active) for vote in rows]
    assert found.tolist() == expected
    assert len(set(expected)) > 2


def test_factor_vae_is_that_of_the_library_on_equal_draws(entangled: Case) -> None:
    scores = factor_vae_scores(*entangled, 7, votes=(600, 300))
    table, generator = code_table(*entangled), np.random.default_rng((7, 1))
    draws, variances = RowDraws(table, 64), entangled.codes.var(0, ddof=1)
    active = np.sqrt(variances) >= 0.05
    pairs = []
    for count in (600, 300):
        fixed, rows = draws.votes(generator, count, 64)
        latents = [library.factor_vote(entangled.codes, vote, variances, active) for vote in rows]
        pairs.append(list(zip(fixed.tolist(), latents, strict=True)))
    assert scores["factor_vae"] == pytest.approx(library.majority_accuracy(pairs[0], pairs[1]), abs=1e-12)
    assert scores["factor_vae_train"] == pytest.approx(library.majority_accuracy(pairs[0], pairs[0]), abs=1e-12)
    assert 0.3 < scores["factor_vae"] < 1


def test_collapsed_latents_are_left_out_and_counted(entangled: Case) -> None:
    scores = factor_vae_scores(*entangled, votes=(200, 100))
    assert (scores["factor_vae_active_latents"], scores["factor_vae_pruned_latents"]) == (6, 2)
    kept = factor_vae_scores(*entangled, votes=(200, 100), threshold=0.0)
    assert kept["factor_vae_active_latents"] == 7  # a constant latent never votes
    nothing = factor_vae_scores(entangled.codes * 1e-3, entangled.factors, votes=(200, 100))
    assert nothing["factor_vae"] == 0
    assert nothing["factor_vae_pruned_latents"] == 8


def test_perfect_codes_give_one_and_noise_gives_chance(dsprites: Any) -> None:
    few = dsprites[::3]  # no longer the whole grid
    assert factor_vae_scores(few, few, votes=(500, 500))["factor_vae"] == 1
    assert beta_vae_scores(few, few, votes=(1000, 500))["beta_vae"] == 1
    noise = np.random.default_rng(0).standard_normal((len(few), 10))
    # chance 1/5, of 500 votes: standard deviation .018
    assert factor_vae_scores(noise, few, votes=(2000, 500))["factor_vae"] == pytest.approx(0.2, abs=0.07)
    assert beta_vae_scores(noise, few, votes=(2000, 500))["beta_vae"] == pytest.approx(0.2, abs=0.07)


def test_beta_vae_is_that_of_the_library_on_equal_draws(entangled: Case) -> None:
    from sklearn.linear_model import LogisticRegression

    scores = beta_vae_scores(*entangled, 2, votes=(300, 200), batch=16, threshold=0)
    draws, generator, points = RowDraws(code_table(*entangled), 1), np.random.default_rng((2, 2)), []
    for count in (300, 200):
        fixed, first, second = draws.pairs(generator, count, 16)
        features = [library.pair_feature(entangled.codes, a, b) for a, b in zip(first, second, strict=True)]
        np.testing.assert_allclose(mean_distances(entangled.codes, first, second), features, rtol=1e-12)
        points.append((np.array(features), fixed))
    model = LogisticRegression(max_iter=10_000).fit(*points[0])
    assert scores["beta_vae"] == pytest.approx(model.score(*points[1]), abs=1e-12)
    assert scores["beta_vae_train"] == pytest.approx(model.score(*points[0]), abs=1e-12)


@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_rows_of_a_vote_share_their_factor_and_are_uniform_otherwise(order: str) -> None:
    factors = grid(3, 4, 2)
    if order == "shuffled":
        factors = np.random.default_rng(1).permutation(factors)
    table = code_table(factors.astype(float), factors)
    fixed, rows = RowDraws(table, 64).votes(np.random.default_rng(0), 3000, 64)
    shared = factors[rows, fixed[:, None]]
    assert (shared == shared[:, :1]).all()
    assert stats.chisquare(np.bincount(fixed, minlength=3)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(shared[fixed == 1, 0], minlength=4)).pvalue > 1e-3
    for factor in (0, 2):  # where factor 1 is fixed the others are uniform
        assert stats.chisquare(np.bincount(factors[rows[fixed == 1], factor].ravel())).pvalue > 1e-3


@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_pairs_agree_in_their_factor_and_are_uniform_otherwise(order: str) -> None:
    factors = grid(3, 4, 2)
    if order == "shuffled":
        factors = np.random.default_rng(1).permutation(factors)
    table = code_table(factors.astype(float), factors)
    fixed, first, second = RowDraws(table, 1).pairs(np.random.default_rng(0), 3000, 8)
    place = fixed[:, None]
    assert (factors[first, place] == factors[second, place]).all()
    assert stats.chisquare(np.bincount(first.ravel(), minlength=24)).pvalue > 1e-3
    joint = np.histogram2d(factors[first[fixed == 0], 1].ravel(), factors[second[fixed == 0], 1].ravel(), (4, 4))[0]
    assert stats.chi2_contingency(joint).pvalue > 1e-3  # the other factors are drawn anew


def test_the_seed_decides(entangled: Case) -> None:
    options: Any = {"votes": (300, 300)}
    assert factor_vae_scores(*entangled, 1, **options) == factor_vae_scores(*entangled, 1, **options)
    assert factor_vae_scores(*entangled, 1, **options) != factor_vae_scores(*entangled, 2, **options)


def test_headlines_are_floats(entangled: Case) -> None:
    for metric in (factor_vae, beta_vae):
        found = metric(*entangled, 1)
        assert type(found) is float
        assert 0.2 < found <= 1


def test_what_votes_cannot_be_drawn_from_is_told(entangled: Case) -> None:
    with pytest.raises(VaexError, match=r"A vote looks at 64 images, but there are the codes of 40"):
        factor_vae(entangled.codes[:40], entangled.factors[:40] + np.arange(40)[:, None] % 2)
    rare = entangled.factors[::7]
    with pytest.raises(VaexError, match=r"value \d of factor 4 occurs in \d+ of 412 images: encode more"):
        factor_vae(entangled.codes[::7], rare)
    with pytest.raises(VaexError, match=r"value \d of factor 4 occurs in \d+ of 412 images: encode more"):
        factor_vae(entangled.codes[::7] * 1e-3, rare)  # collapsed codes have a score of 0, where there are enough
    factor_vae_scores(entangled.codes[::7], rare, votes=(10, 10), batch=8)
    one = np.arange(600)[:, None]  # a whole grid of one factor
    codes = np.random.default_rng(0).standard_normal((600, 2))
    for metric in (factor_vae, beta_vae):
        with pytest.raises(
            VaexError, match=r"at least 2 images of each value .* occurs in 1 of 600 .* images of it\.$"
        ):
            metric(codes, one)
    with pytest.raises(VaexError, match="at least 1 vote"):
        factor_vae_scores(*entangled, votes=(0, 10))
    with pytest.raises(VaexError, match="at least 2"):
        beta_vae_scores(*entangled, batch=1)


def test_a_table_that_is_the_whole_grid_may_have_rare_values() -> None:
    factors = grid(8, 9)
    assert factor_vae_scores(factors, factors, votes=(50, 50))["factor_vae"] == 1
    shuffled = np.random.default_rng(0).permutation(factors)
    assert factor_vae_scores(shuffled, shuffled, votes=(50, 50))["factor_vae"] == 1
    with pytest.raises(VaexError, match="occurs in 8 of 71 images"):
        factor_vae_scores(factors[1:], factors[1:], votes=(50, 50))


def test_many_images_of_few_combinations_are_not_the_whole_grid() -> None:
    """More rows than combinations, but value 1 of factor 0 in two images alone: a vote would see the same two."""
    common = np.tile(grid(1, 2, 3), (200, 1))[:998]
    factors = np.concatenate([common, [[1, 0, 0], [1, 1, 2]]])
    assert len({tuple(row) for row in factors.tolist()}) < 2 * 2 * 3 < len(factors)
    codes = np.random.default_rng(0).standard_normal((1000, 4))
    with pytest.raises(VaexError, match="value 1 of factor 0 occurs in 2 of 1000 images: encode more images"):
        factor_vae_scores(codes, factors, votes=(50, 50))
    every = np.concatenate([common, grid(2, 2, 3)[6:]])
    assert len({tuple(row) for row in every.tolist()}) == 2 * 2 * 3
    assert factor_vae_scores(np.resize(codes, (1004, 4)), every, votes=(50, 50))["factor_vae_active_latents"] == 4


def test_large_codes_score_as_small_ones(entangled: Case) -> None:
    codes, factors = entangled
    options: Any = {"votes": (300, 300), "threshold": 0.0}
    expected = factor_vae_scores(codes, factors, **options)
    assert factor_vae_scores(codes * 2.0**45, factors, **options) == expected
