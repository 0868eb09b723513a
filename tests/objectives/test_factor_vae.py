"""Terms of FactorVAE against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaex.build import build_model, build_objective
from vaex.errors import VaexError
from vaex.networks import Discriminator
from vaex.objectives import FactorVAE
from vaex.objectives.elbo import elbo_terms
from vaex.objectives.factor_vae import (
    discriminator_terms,
    permuted_latents,
    total_correlation,
    with_total_correlation,
)
from vaex.objectives.terms import AFTER_TRAINING

CORRELATION = torch.tensor([[1.0, 0.6, 0.2], [0.6, 1.0, -0.3], [0.2, -0.3, 1.0]], dtype=torch.float64)


def gaussian_codes(count: int) -> Tensor:
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    codes: Tensor = noise @ torch.linalg.cholesky(CORRELATION).T
    return codes


def log_densities(codes: Tensor) -> Tensor:
    """Return log q(z) and log of the product of its marginals, (B, 2): the logits of a perfect discriminator."""
    joint = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), CORRELATION).log_prob(codes)
    marginals = torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(1)
    return torch.stack([joint, marginals], 1)


def test_total_correlation_of_a_perfect_discriminator_is_that_of_the_gaussian() -> None:
    found = total_correlation(log_densities(gaussian_codes(200_000)))
    torch.testing.assert_close(found, -0.5 * torch.logdet(CORRELATION), rtol=0, atol=5e-3)


def test_permuted_codes_have_the_product_of_the_marginals() -> None:
    codes = gaussian_codes(100_000)
    permuted = permuted_latents(codes, torch.Generator().manual_seed(1))
    torch.testing.assert_close(permuted.sort(0).values, codes.sort(0).values, rtol=0, atol=0)
    torch.testing.assert_close(permuted.T.cov(), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.02)
    again = permuted_latents(codes, torch.Generator().manual_seed(1))
    assert torch.equal(again, permuted)
    # and the perfect discriminator's total correlation of them is that of the product: -KL(product || joint)
    reverse = 0.5 * (torch.linalg.inv(CORRELATION).trace() - 3 + torch.logdet(CORRELATION))
    torch.testing.assert_close(total_correlation(log_densities(permuted)), -reverse, rtol=0, atol=0.02)


def test_discriminator_loss_is_log_two_for_one_that_knows_nothing_and_near_zero_for_one_that_knows() -> None:
    blind = torch.zeros(6, 2)
    terms = discriminator_terms(blind, blind)
    assert terms.loss.item() == pytest.approx(math.log(2))
    assert terms.accuracy.item() == 0.0  # a tie is no answer
    sure = torch.tensor([[20.0, 0.0]]).expand(6, 2)
    knows = discriminator_terms(sure, sure.flip(1))
    assert knows.loss.item() == pytest.approx(0.0, abs=1e-6)
    assert knows.accuracy.item() == 1.0
    wrong = discriminator_terms(sure.flip(1), sure.flip(1))
    assert wrong.loss.item() == pytest.approx(10.0, abs=1e-6)
    assert wrong.accuracy.item() == 0.5


def test_losses_of_low_precision_are_summed_in_full() -> None:
    logits = torch.randn(300, 2).bfloat16()
    for value in (total_correlation(logits), discriminator_terms(logits, logits).loss):
        assert value.dtype == torch.float32


def test_total_is_the_elbo_and_gamma_times_the_total_correlation() -> None:
    model = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})
    images = torch.rand(5, 1, 32, 32)
    output = model(images, sample=False)
    objective = build_objective({"name": "factor_vae", "gamma": 7.0, "warmup": {"kind": "linear", "steps": 10}})
    logits = torch.randn(5, 2)
    plain = elbo_terms(images, output)
    for step, gamma in ((0, 0.0), (5, 3.5), (10, 7.0), (AFTER_TRAINING, 7.0)):
        terms = with_total_correlation(objective(images, output, step), logits)
        correlation = (logits[:, 0] - logits[:, 1]).mean()
        torch.testing.assert_close(terms.total, plain.total + gamma * correlation)
        torch.testing.assert_close(terms.parts["total_correlation"], correlation)
        assert set(terms.parts) == {"reconstruction", "kl", "gamma", "total_correlation"}


@pytest.mark.parametrize("gamma", [-1.0, math.inf, math.nan])
def test_gamma_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(VaexError, match=r"objective.gamma.*must be 0 or more"):
        FactorVAE(gamma)


def test_discriminator_has_the_layers_of_the_paper() -> None:
    network = Discriminator(10)
    shapes = [tuple(weight.shape) for name, weight in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(1000, 10), *[(1000, 1000)] * 4, (2, 1000)]
    slopes = [layer.negative_slope for layer in network.modules() if isinstance(layer, torch.nn.LeakyReLU)]
    assert slopes == [0.2] * 5
    assert network(torch.randn(4, 10)).shape == (4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"depth": 1}, "depth of at least 2"),
        ({"slope": -0.1}, "slope must be 0 or more"),
        ({"init": "norml"}, "did you mean 'normal'"),
    ],
)
def test_discriminators_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        Discriminator(3, **options)  # type: ignore[arg-type]
