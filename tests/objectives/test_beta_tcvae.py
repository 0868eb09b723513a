"""The beta-TCVAE against loops over draws and images, exact averages over all batches, and a closed form."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tests.objectives.toys import black, codes, output_of
from vaex.build import build_objective
from vaex.errors import VaexError
from vaex.objectives import ELBO, BetaTCVAE
from vaex.objectives.beta_tcvae import decomposition, log_weights

N = 50


def weight(i: int, j: int, count: int, estimator: str, size: int = N) -> float:
    """Return the weight of q(z_i|x_j) as the paper states it, with image i + 1 as the M-th other one."""
    others = count - 1
    if estimator == "weighted":
        return 1 / (size * count)
    if i == j:
        return 1 / size
    return (size - others) / (size * others) if j == (i + 1) % count else 1 / others


def by_loops(z: Tensor, mean: Tensor, logvar: Tensor, estimator: str) -> tuple[float, float, float]:
    count, latents = z.shape
    information = correlation = dimension_wise = 0.0
    for i in range(count):
        joint, marginals, own, prior = 0.0, [0.0] * latents, 0.0, 0.0
        for j in range(count):
            density = 1.0
            for d in range(latents):
                one = Normal(mean[j, d], (logvar[j, d] / 2).exp()).log_prob(z[i, d]).exp().item()
                density *= one
                marginals[d] += weight(i, j, count, estimator) * one
            joint += weight(i, j, count, estimator) * density
            own = math.log(density) if j == i else own
        prior = sum(Normal(0.0, 1.0).log_prob(z[i, d]).item() for d in range(latents))
        independent = sum(map(math.log, marginals))
        information += (own - math.log(joint)) / count
        correlation += (math.log(joint) - independent) / count
        dimension_wise += (independent - prior) / count
    return information, correlation, dimension_wise


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_each_part_is_that_of_a_double_loop(estimator: str) -> None:
    z, mean, logvar = codes(6, 3)
    found = decomposition(z, mean, logvar, N, estimator)
    assert [value.item() for value in found] == pytest.approx(by_loops(z, mean, logvar, estimator), rel=1e-9)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_the_parts_add_up_to_the_kl_of_the_draws(estimator: str) -> None:
    z, mean, logvar = codes(8, 4, seed=1)
    kl = (Normal(mean, (logvar / 2).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
    torch.testing.assert_close(sum(decomposition(z, mean, logvar, N, estimator)), kl)


def test_the_stratified_weights_are_the_importance_weight_matrix_of_the_paper() -> None:
    # B = 4, M = 3, N = 10: 1/10 for the own image, (10 - 3) / 30 for one other, 1/3 for the others
    a, b, c = 1 / 10, 7 / 30, 1 / 3
    expected = torch.tensor([[a, b, c, c], [c, a, b, c], [c, c, a, b], [b, c, c, a]], dtype=torch.float64)
    torch.testing.assert_close(log_weights(4, 10, "stratified").exp(), expected)


def test_stratified_weights_estimate_the_aggregate_posterior_without_bias() -> None:
    """Averaged over every batch that holds image 0 first, the estimate of q(z) is q(z) itself."""
    size, batch = 5, 3
    generator = torch.Generator().manual_seed(0)
    densities = torch.rand(size, generator=generator, dtype=torch.float64)  # q(z|x_n) for the z of image 0
    row = log_weights(batch, size, "stratified")[0].exp()
    batches = [(0, *others) for others in permutations(range(1, size), batch - 1)]
    estimates = [float(row @ densities[list(chosen)]) for chosen in batches]
    assert sum(estimates) / len(estimates) == pytest.approx(densities.mean().item())


def test_weighted_is_the_mixture_of_the_batch_with_the_constants_of_the_paper() -> None:
    torch.testing.assert_close(log_weights(4, 10).exp(), torch.full((4, 4), 1 / 40, dtype=torch.float64))


def test_the_stratified_total_correlation_of_a_gaussian_is_its_closed_form() -> None:
    """Narrow posteriors around correlated means: q(z) is nearly N(0, S), with TC -1/2 log det of its correlation."""
    correlation = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    torch.manual_seed(0)
    mean = MultivariateNormal(torch.zeros(2, dtype=torch.float64), correlation).sample((1500,))
    logvar = torch.full_like(mean, math.log(0.02))
    z = mean + torch.randn_like(mean) * 0.02**0.5
    blurred = correlation + 0.02 * torch.eye(2, dtype=torch.float64)
    expected = 0.5 * (blurred.diagonal().log().sum() - blurred.logdet()).item()
    found = decomposition(z, mean, logvar, 1500, "stratified")  # the batch is the data set
    assert found.total_correlation.item() == pytest.approx(expected, abs=0.1)
    assert expected > 0.4


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(1.0, 6.0, 1.0), (0.0, 2.0, 0.5), (1.0, 1.0, 1.0)])
def test_the_total_is_the_elbo_plus_the_weighted_parts(alpha: float, beta: float, gamma: float) -> None:
    z, mean, logvar = codes(6, 3)
    objective = BetaTCVAE(beta, alpha, gamma, "stratified", N)
    terms = objective(black(6), output_of(z, mean, logvar), 0)
    information, correlation, dimension_wise = by_loops(z, mean, logvar, "stratified")
    plain = ELBO()(black(6), output_of(z, mean, logvar), 0).total.item()
    expected = plain + (alpha - 1) * information + (beta - 1) * correlation + (gamma - 1) * dimension_wise
    assert terms.total.item() == pytest.approx(expected, rel=1e-6)
    assert terms.parts["total_correlation"].item() == pytest.approx(correlation)
    assert terms.parts["beta"].item() == beta


def test_the_estimators_have_one_gradient_of_what_they_share() -> None:
    """With weighted sampling N is a constant of the value, not of the gradient."""

    def gradient(size: int) -> Tensor:
        z, mean, logvar = codes(5, 2)
        mean.requires_grad_()
        z = mean + (z - mean.detach())
        decomposition(z, mean, logvar, size).total_correlation.backward()
        assert mean.grad is not None
        return mean.grad

    torch.testing.assert_close(gradient(5), gradient(5000))
    assert gradient(5).abs().sum() > 0


def test_warmup_weighs_all_but_the_reconstruction() -> None:
    objective = BetaTCVAE(dataset_size=N, warmup={"kind": "linear", "steps": 4})
    totals = [objective(black(6), output_of(*codes(6, 3)), step) for step in (0, 1, 4)]
    plain = totals[0].parts["reconstruction"]
    torch.testing.assert_close(totals[0].total, plain.to(totals[0].total))
    torch.testing.assert_close(totals[1].total - plain, (totals[2].total - plain) / 4)
    assert [terms.parts["beta"].item() for terms in totals] == [0.0, 1.5, 6.0]


def test_half_precision_codes_are_compared_in_fp32() -> None:
    z, mean, logvar = (part.bfloat16() for part in codes(6, 3))
    output = output_of(z, mean, logvar)
    terms = BetaTCVAE(dataset_size=N)(black(6), output, 0)
    rounded = by_loops(z.double(), mean.double(), logvar.double(), "weighted")
    assert terms.parts["total_correlation"].dtype == torch.float32
    assert terms.parts["total_correlation"].item() == pytest.approx(rounded[1], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": -1.0}, r"objective\.beta must be a number of 0 or more, got -1"),
        ({"alpha": -0.5}, r"objective\.alpha must be a number of 0 or more"),
        ({"gamma": float("inf")}, r"objective\.gamma must be a number of 0 or more, got inf"),
        ({"estimator": "stratifed"}, r"Unknown objective\.estimator 'stratifed': did you mean 'stratified'"),
        ({"dataset_size": 1}, r"objective\.dataset_size must be a number of images of 2 or more"),
        ({"dataset_size": 2.5}, r"objective\.dataset_size must be a number of images of 2 or more"),
        ({"free_bits": -1.0}, r"objective\.free_bits"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        build_objective({"name": "beta_tcvae", **options})


def test_what_cannot_be_estimated_is_told() -> None:
    objective = BetaTCVAE(dataset_size=N)
    with pytest.raises(VaexError, match=r"batch of one; choose data.batch_size"):
        objective(black(1), output_of(*codes(1, 3)), 0)
    with pytest.raises(VaexError, match=r"batch of 60 out of objective.dataset_size=50"):
        objective(black(60), output_of(*codes(60, 3)), 0)
    with pytest.raises(VaexError, match=r"set objective.dataset_size"):
        BetaTCVAE()(black(4), output_of(*codes(4, 3)), 0)
    grid = output_of(*(part[..., None, None] for part in codes(4, 3)))
    with pytest.raises(VaexError, match=r"latent grid \(4, 3, 1, 1\)"):
        objective(black(4), grid, 0)
