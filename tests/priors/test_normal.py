"""The standard normal prior against torch.distributions, Monte Carlo and closed-form gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaex.priors import StandardNormal
from vaex.types import Posterior


@pytest.fixture
def posterior() -> Posterior:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = 2 * torch.randn(2, 50, 4, dtype=torch.float64, generator=generator)
    return Posterior(mean, logvar)


def distribution(posterior: Posterior) -> Normal:
    return Normal(posterior.mean, (0.5 * posterior.logvar).exp())


def test_kl_is_that_of_torch_per_latent(posterior: Posterior) -> None:
    kl = StandardNormal().kl(posterior)
    assert kl.shape == (50, 4)
    torch.testing.assert_close(kl, kl_divergence(distribution(posterior), Normal(0.0, 1.0)))


def test_kl_of_a_latent_grid_keeps_its_cells() -> None:
    mean, logvar = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    kl = StandardNormal().kl(Posterior(mean, logvar))
    torch.testing.assert_close(kl, kl_divergence(distribution(Posterior(mean, logvar)), Normal(0.0, 1.0)))


def test_kl_agrees_with_monte_carlo(posterior: Posterior) -> None:
    torch.manual_seed(0)
    z = distribution(posterior).sample((20000,))
    difference = distribution(posterior).log_prob(z) - StandardNormal().log_prob(z)
    error = difference.std(0) / 20000**0.5
    assert bool(((StandardNormal().kl(posterior) - difference.mean(0)).abs() < 5 * error).all())


def test_kl_is_zero_at_the_prior_and_never_negative() -> None:
    """exp(logvar) - 1 - logvar in single precision is negative for some logvar near 0."""
    logvar = torch.linspace(-2e-3, 2e-3, 100001)[:, None]
    kl = StandardNormal().kl(Posterior(torch.zeros_like(logvar), logvar))
    assert kl.min().item() >= -1e-12
    exact = kl_divergence(distribution(Posterior(torch.zeros(1), logvar.double())), Normal(0.0, 1.0))
    torch.testing.assert_close(kl.double(), exact, rtol=1e-3, atol=1e-10)
    assert StandardNormal().kl(Posterior(torch.zeros(1, 1), torch.zeros(1, 1))).item() == 0


@pytest.mark.parametrize("bound", [-30.0, 20.0])
def test_kl_is_finite_at_the_ends_of_the_range_of_logvar(bound: float) -> None:
    kl = StandardNormal().kl(Posterior(torch.zeros(1, 1), torch.full((1, 1), bound)))
    exact = kl_divergence(Normal(torch.zeros(1, 1), torch.tensor(bound).double().mul(0.5).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl, exact.float())


def test_kl_of_half_precision_is_computed_in_single(posterior: Posterior) -> None:
    half = Posterior(posterior.mean.bfloat16(), posterior.logvar.bfloat16())
    kl = StandardNormal().kl(half)
    assert kl.dtype == torch.float32
    widened = Posterior(half.mean.double(), half.logvar.double())
    torch.testing.assert_close(
        kl.double(), kl_divergence(distribution(widened), Normal(0.0, 1.0)), rtol=1e-5, atol=1e-6
    )


def test_gradients_of_the_kl_are_the_closed_form(posterior: Posterior) -> None:
    mean, logvar = (part.clone().requires_grad_() for part in posterior)
    StandardNormal().kl(Posterior(mean, logvar)).sum().backward()
    torch.testing.assert_close(mean.grad, mean.detach())
    torch.testing.assert_close(logvar.grad, 0.5 * (logvar.detach().exp() - 1))


def test_log_prob_is_that_of_torch_per_latent() -> None:
    z = 5 * torch.randn(100, 3, dtype=torch.float64)
    torch.testing.assert_close(StandardNormal().log_prob(z), Normal(0.0, 1.0).log_prob(z))


def test_samples_are_standard_normal_and_repeat_with_their_generator() -> None:
    def draw(seed: int) -> Tensor:
        return StandardNormal().sample(40000, 2, torch.Generator().manual_seed(seed))

    z = draw(0)
    assert z.shape == (40000, 2)
    assert torch.equal(z, draw(0))
    assert not torch.equal(z, draw(1))
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=5 / 200)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), rtol=0, atol=0.05)


def test_it_has_nothing_to_train_or_to_save() -> None:
    assert not list(StandardNormal().parameters())
    assert not StandardNormal().state_dict()
