"""The ELBO against torch.distributions, hand tables, and a model whose evidence is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions
from torch.distributions import Normal, kl_divergence

from vaex.build import build_model
from vaex.errors import VaexError
from vaex.networks.likelihoods import Bernoulli, Gaussian
from vaex.objectives import ELBO
from vaex.objectives.elbo import elbo_terms, free_bits_kl
from vaex.priors import StandardNormal
from vaex.types import Posterior, VAEOutput

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1)).round()


@pytest.fixture
def output(images: Tensor) -> VAEOutput:
    torch.manual_seed(0)
    out: VAEOutput = build_model(NETWORK)(images)
    return out


def toy(mean: Tensor, logvar: Tensor, z: Tensor, location: Tensor, scale: float) -> VAEOutput:
    posterior = Posterior(mean, logvar)
    likelihood = Gaussian(location, torch.tensor(math.log(scale), dtype=location.dtype))
    return VAEOutput(posterior, z, likelihood, StandardNormal().kl(posterior), {})


def test_terms_are_nats_per_image(images: Tensor, output: VAEOutput) -> None:
    """Summed over pixels and latents, averaged over the batch."""
    terms = ELBO()(images, output, 0)
    pixels = distributions.Bernoulli(probs=output.reconstruction).log_prob(images)
    deviation = (0.5 * output.posterior.logvar).exp()
    latents = kl_divergence(Normal(output.posterior.mean, deviation), Normal(0.0, 1.0))
    torch.testing.assert_close(terms.parts["reconstruction"], -pixels.sum() / 6)
    torch.testing.assert_close(terms.parts["kl"], latents.sum() / 6)
    torch.testing.assert_close(terms.total, -pixels.sum() / 6 + latents.sum() / 6)
    assert all(part.shape == () for part in (terms.total, *terms.parts.values()))
    assert terms.parts["reconstruction"] > 0
    assert terms.parts["kl"] > 0
    assert not terms.parts["beta"].requires_grad


def test_the_batch_size_does_not_matter_and_the_pixels_do(images: Tensor, output: VAEOutput) -> None:
    def repeated(value: Tensor) -> Tensor:
        return value.repeat(3, *[1] * (value.dim() - 1))

    posterior = Posterior(*map(repeated, output.posterior))
    logits = repeated(output.likelihood.logits)  # type: ignore[attr-defined]
    tripled = VAEOutput(posterior, repeated(output.z), Bernoulli(logits), repeated(output.kl), {})
    torch.testing.assert_close(ELBO()(repeated(images), tripled, 0).total, ELBO()(images, output, 0).total)
    wide = output._replace(likelihood=Bernoulli(logits.reshape(6, 3, 32, 32)))
    terms = ELBO()(repeated(images).reshape(6, 3, 32, 32), wide, 0)
    single = ELBO()(images, output, 0)
    torch.testing.assert_close(terms.parts["reconstruction"], 3 * single.parts["reconstruction"])


@pytest.mark.parametrize("beta", [0.0, 1.0, 7.5])
def test_parts_are_unweighted(images: Tensor, output: VAEOutput, beta: float) -> None:
    terms = elbo_terms(images, output, beta=beta)
    plain = elbo_terms(images, output)
    assert torch.equal(terms.parts["kl"], plain.parts["kl"])
    assert torch.equal(terms.parts["reconstruction"], plain.parts["reconstruction"])
    assert terms.parts["beta"].item() == beta
    torch.testing.assert_close(terms.total, plain.parts["reconstruction"] + beta * plain.parts["kl"])


def test_monte_carlo_of_the_exact_posterior_is_the_evidence() -> None:
    """z ~ N(0, 1), x | z ~ N(z, s): then p(x) = N(0, 1 + s^2), and with q = p(z|x) the bound is tight."""
    torch.manual_seed(0)
    scale, count = 0.5, 400_000
    x = torch.full((count, 1, 1, 1), 1.3, dtype=torch.float64)
    variance = scale**2 / (1 + scale**2)
    mean = (x / (1 + scale**2)).flatten(1)
    logvar = torch.full_like(mean, math.log(variance))
    z = Posterior(mean, logvar).sample()
    evidence = Normal(0.0, math.sqrt(1 + scale**2)).log_prob(torch.tensor(1.3)).item()
    exact = elbo_terms(x, toy(mean, logvar, z, z.reshape(x.shape), scale))
    assert -exact.total.item() == pytest.approx(evidence, abs=0.01)
    wide = logvar + 0.5  # a wrong posterior: the bound falls short by KL(q || p(z|x))
    z = Posterior(mean, wide).sample()
    bound = -elbo_terms(x, toy(mean, wide, z, z.reshape(x.shape), scale)).total.item()
    gap = kl_divergence(Normal(0.0, math.exp(0.5 * 0.5)), Normal(0.0, 1.0)).item()
    assert bound == pytest.approx(evidence - gap, abs=0.02)


def test_gradients_are_the_closed_form() -> None:
    """With x | z ~ N(z, 1) and z = mean: d total / d mean = (mean - x + beta mean) / B."""
    x = torch.randn(5, 1, 1, 1, dtype=torch.float64)
    mean = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    logvar = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    terms = elbo_terms(x, toy(mean, logvar, mean, mean.reshape(5, 1, 1, 1), 1.0), beta=3.0)
    terms.total.backward()
    torch.testing.assert_close(mean.grad, (mean.detach() - x.flatten(1) + 3 * mean.detach()) / 5)
    torch.testing.assert_close(logvar.grad, 3 * 0.5 * (logvar.detach().exp() - 1) / 5)


@pytest.mark.parametrize(
    ("free_bits", "expected"),
    [(0.0, 3.2), (0.1, 3.2), (0.2, 3.2), (0.5, 3.5), (3.0, 6.0), (4.0, 8.0)],
)
def test_free_bits_hand_table(free_bits: float, expected: float) -> None:
    """Batch means of the two latents are 0.2 and 3.0; the floor holds per latent, not per image."""
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    assert free_bits_kl(kl, free_bits).item() == pytest.approx(expected)


def test_free_bits_stop_the_gradient_of_quiet_latents_only() -> None:
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]], requires_grad=True)
    free_bits_kl(kl, 0.5).backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_free_bits_enter_the_total_and_not_the_parts(images: Tensor, output: VAEOutput) -> None:
    terms = ELBO(free_bits=2.0)(images, output, 0)
    plain = ELBO()(images, output, 0)
    assert terms.parts["kl"] == plain.parts["kl"]
    expected = sum(max(2.0, value) for value in output.kl.mean(0).tolist())
    assert (terms.total - terms.parts["reconstruction"]).item() == pytest.approx(expected, rel=1e-4)


def test_warmup_weights_the_kl_by_step(images: Tensor, output: VAEOutput) -> None:
    objective = ELBO(warmup={"kind": "linear", "steps": 10, "start": 0.2})
    kl = output.kl.sum(1).mean().item()
    for step, weight in ((0, 0.2), (5, 0.6), (10, 1.0), (999, 1.0)):
        terms = objective(images, output, step)
        assert terms.parts["beta"].item() == pytest.approx(weight)
        assert (terms.total - terms.parts["reconstruction"]).item() == pytest.approx(weight * kl, rel=1e-3)


def test_the_kl_of_half_precision_is_summed_in_single(images: Tensor, output: VAEOutput) -> None:
    half = output._replace(kl=torch.full((6, 1000), 1.0, dtype=torch.bfloat16))
    assert elbo_terms(images, half).parts["kl"].item() == 1000


@pytest.mark.parametrize("options", [{"free_bits": -0.1}, {"beta": -1.0}])
def test_negative_settings_are_told(options: dict[str, float]) -> None:
    with pytest.raises(VaexError, match=r"objective\.free_bits and objective\.beta must be 0 or more"):
        ELBO(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_told_at_once(value: float) -> None:
    with pytest.raises(VaexError, match=r"objective\.free_bits and objective\.beta must be 0 or more"):
        ELBO(beta=value)
    with pytest.raises(VaexError, match=r"objective\.free_bits and objective\.beta must be 0 or more"):
        ELBO(free_bits=value)
