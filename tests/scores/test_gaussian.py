"""Position-wise normal distributions against numpy's covariance and scipy's density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from vaex.scores.gaussian import Moments, add_moments, log_likelihood, low_rank, pooled, squared_distance

N, P, K = 40, 3, 5


@pytest.fixture
def values() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(P, K, K, generator=generator)
    return torch.einsum("npk,pkl->npl", torch.randn(N, P, K, generator=generator), mix) + 3.0


def moments_in(values: Tensor, sizes: list[int]) -> Moments:
    moments = None
    for part in values.split(sizes):
        moments = add_moments(moments, part.clone())
    assert moments is not None
    return moments


@pytest.mark.parametrize("sizes", [[40], [1, 39], [13, 13, 14]])
def test_moments_do_not_depend_on_the_batches(values: Tensor, sizes: list[int]) -> None:
    found = moments_in(values, sizes)
    assert found.number == N
    for p in range(P):
        np.testing.assert_allclose(found.mean[p], values[:, p].mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.scatter[p] / (N - 1), np.cov(values[:, p].T), rtol=1e-4, atol=1e-4)


def test_pooled_moments_are_those_of_all_vectors(values: Tensor) -> None:
    found = pooled(moments_in(values, [40]))
    flat = values.flatten(0, 1).double().numpy()
    np.testing.assert_allclose(found.mean[0], flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.scatter[0] / (N * P - 1), np.cov(flat.T), rtol=1e-4)


@pytest.mark.parametrize("shrink", [0.01, 1.0])
def test_at_full_rank_distance_and_density_are_the_textbook_s(values: Tensor, shrink: float) -> None:
    normal = low_rank(moments_in(values, [40]), K)
    fresh = values[:7] + 1
    found = squared_distance(normal, fresh, shrink)
    densities = np.zeros((7, P))
    for p in range(P):
        covariance = np.cov(values[:, p].double().numpy().T) + shrink * np.eye(K)
        away = (fresh[:, p] - values[:, p].mean(0)).double().numpy()
        expected = np.einsum("nk,kl,nl->n", away, np.linalg.inv(covariance), away)
        np.testing.assert_allclose(found[:, p], expected, rtol=2e-3)
        densities[:, p] = multivariate_normal(np.zeros(K), covariance).logpdf(away)
    assert float(log_likelihood(normal, fresh, shrink)) == pytest.approx(densities.mean(), rel=1e-3)


def test_of_low_rank_the_other_directions_share_their_mean_variance(values: Tensor) -> None:
    normal = low_rank(moments_in(values, [40]), 2)
    fresh = values[:4] - 2
    for p in range(P):
        spread, vectors = np.linalg.eigh(np.cov(values[:, p].double().numpy().T))
        spread[:-2] = spread[:-2].mean()
        covariance = vectors @ np.diag(spread) @ vectors.T + np.eye(K)
        away = (fresh[:, p] - values[:, p].mean(0)).double().numpy()
        expected = np.einsum("nk,kl,nl->n", away, np.linalg.inv(covariance), away)
        np.testing.assert_allclose(squared_distance(normal, fresh, 1.0)[:, p], expected, rtol=2e-3)
