"""The importance-weighted bound against the exact evidence of a linear-Gaussian VAE."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from vaex.build import build_model, build_objective
from vaex.errors import VaexError
from vaex.networks import VAE
from vaex.networks.likelihoods import Bernoulli, LikelihoodHead
from vaex.objectives import IWAE
from vaex.objectives.iwae import iwae_bound
from vaex.priors import StandardNormal
from vaex.types import Posterior, VAEOutput

NOISE = 0.5
LATENTS, SIDE = 2, 2
NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


class LinearEncoder(nn.Module):
    """The exact posterior of z for x = W z + noise with orthogonal columns, or one that is wider by ``wide``."""

    latents = LATENTS

    def __init__(self, weights: Tensor, wide: float) -> None:
        super().__init__()
        self.weights, self.wide = nn.Parameter(weights.clone()), wide

    def forward(self, images: Tensor) -> Posterior:
        precision = 1 + self.weights.square().sum(0) / NOISE**2  # (D,)
        mean = images.flatten(1) @ self.weights / NOISE**2 / precision
        return Posterior(mean, (self.wide / precision).log().expand_as(mean))


class LinearDecoder(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.clone())

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weights.mT).reshape(len(z), 1, SIDE, SIDE)


def linear_vae(wide: float) -> tuple[VAE, Tensor, Tensor]:
    """Return the VAE, four images and log p(x) of each."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(SIDE * SIDE, LATENTS, generator=generator, dtype=torch.float64)).Q
    weights = basis * torch.tensor([2.0, 0.7], dtype=torch.float64)
    head = LikelihoodHead("gaussian", NOISE)
    encoder: Any = LinearEncoder(weights, wide)
    decoder: Any = LinearDecoder(weights)
    model = VAE(encoder, decoder, head, StandardNormal(), (1, SIDE, SIDE)).double()
    images = torch.randn(4, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    covariance = weights @ weights.mT + NOISE**2 * torch.eye(SIDE * SIDE, dtype=torch.float64)
    evidence = MultivariateNormal(torch.zeros(SIDE * SIDE, dtype=torch.float64), covariance).log_prob(images.flatten(1))
    return model, images, evidence


@pytest.mark.parametrize("samples", [1, 3])
def test_with_the_true_posterior_every_draw_gives_the_evidence(samples: int) -> None:
    model, images, evidence = linear_vae(wide=1.0)
    torch.testing.assert_close(iwae_bound(model, images, samples), evidence, rtol=1e-6, atol=1e-6)
    objective = build_objective({"name": "iwae", "samples": samples}, model)
    terms = objective(images, model(images, sample=True), 0)
    assert terms.total.item() == pytest.approx(-evidence.mean().item(), rel=1e-6)


def test_with_another_posterior_many_draws_near_the_evidence_from_below() -> None:
    model, images, evidence = linear_vae(wide=3.0)
    torch.manual_seed(0)
    one = iwae_bound(model, images.repeat(4000, 1, 1, 1), 1).reshape(4000, 4).mean(0)
    many = iwae_bound(model, images.repeat(10, 1, 1, 1), 300).reshape(10, 4).mean(0)
    assert bool((one < evidence - 0.2).all())  # the gap is KL(q || posterior): 2 latents of (3 - 1 - log 3) / 2
    torch.testing.assert_close(evidence - one, torch.full_like(one, 2 - math.log(3)), atol=0.1, rtol=0)
    torch.testing.assert_close(many, evidence, atol=0.03, rtol=0)


def test_the_objective_is_the_log_mean_of_weights_by_a_loop() -> None:
    torch.manual_seed(0)
    model = build_model(NETWORK)
    images = torch.rand(3, 1, 32, 32).round()
    objective = build_objective({"name": "iwae", "samples": 4}, model)
    torch.manual_seed(1)
    output: VAEOutput = model(images, sample=True)
    terms = objective(images, output, 0)
    torch.manual_seed(1)
    model(images, sample=True)
    deviation = (output.posterior.logvar / 2).exp()
    draws = [output.z] + [output.posterior.mean + torch.randn_like(deviation) * deviation for _ in range(3)]
    bounds = []
    for n in range(3):
        weights = []
        for z in draws:
            likelihood = model.decode(z[n : n + 1])
            assert isinstance(likelihood, Bernoulli)
            pixels = torch.distributions.Bernoulli(logits=likelihood.logits)
            prior = Normal(0.0, 1.0).log_prob(z[n]).sum()
            density = Normal(output.posterior.mean[n], deviation[n]).log_prob(z[n]).sum()
            weights.append(pixels.log_prob(images[n : n + 1]).sum() + prior - density)
        bounds.append(max(weights) + torch.stack([(w - max(weights)).exp() for w in weights]).mean().log())
    torch.testing.assert_close(terms.total, -torch.stack(bounds).mean())
    assert torch.equal(terms.parts["iwae"], terms.total)
    assert set(terms.parts) == {"reconstruction", "kl", "iwae"}


def test_more_draws_are_a_tighter_bound_and_all_weights_learn() -> None:
    model, images, _ = linear_vae(wide=3.0)
    torch.manual_seed(0)
    many = images.repeat(200, 1, 1, 1)
    with torch.no_grad():
        bounds = [IWAEof(model, k)(many, model(many, sample=True), 0).total.item() for k in (1, 5, 50)]
    assert bounds == sorted(bounds, reverse=True)
    IWAEof(model, 5)(images, model(images, sample=True), 0).total.backward()
    learned = [w.grad for w in (*model.encoder.parameters(), *model.decoder.parameters())]
    assert len(learned) == 2
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in learned)


def IWAEof(model: VAE, samples: int) -> IWAE:  # noqa: N802
    objective = IWAE(samples)
    objective.bind(model)
    return objective


def test_the_evaluation_leaves_model_and_random_stream_alone() -> None:
    model = build_model(NETWORK).train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.inference_mode():
        found = iwae_bound(model, torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)), 3)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert found.shape == (2,)
    assert not found.requires_grad


def test_bad_input_is_told() -> None:
    with pytest.raises(VaexError, match=r"objective\.samples must be at least 1, got 0"):
        build_objective({"name": "iwae", "samples": 0})
    with pytest.raises(VaexError, match="no option 'warmup'"):
        build_objective({"name": "iwae", "warmup": {"kind": "none"}})
    model = build_model(NETWORK)
    images = torch.rand(2, 1, 32, 32)
    with pytest.raises(VaexError, match="give the model to build_objective"):
        IWAE()(images, model(images, sample=True), 0)
    with pytest.raises(VaexError, match="takes 1 draw or more, got samples=0"):
        iwae_bound(model, images, 0)
