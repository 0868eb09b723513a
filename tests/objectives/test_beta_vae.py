"""The beta-VAE is the ELBO with a heavier KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaex.build import build_model
from vaex.errors import VaexError
from vaex.objectives import ELBO, BetaVAE
from vaex.types import VAEOutput

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def output(images: Tensor) -> VAEOutput:
    torch.manual_seed(0)
    out: VAEOutput = build_model(NETWORK)(images)
    return out


def test_beta_is_four_unless_told(images: Tensor, output: VAEOutput) -> None:
    terms = BetaVAE()(images, output, 0)
    torch.testing.assert_close(terms.total, terms.parts["reconstruction"] + 4 * output.kl.sum() / 6)
    assert terms.parts["beta"].item() == 4
    assert BetaVAE.keep == ()


def test_beta_one_is_the_vae_and_each_further_unit_adds_one_kl(images: Tensor, output: VAEOutput) -> None:
    plain = ELBO()(images, output, 0)
    assert torch.equal(BetaVAE(beta=1.0)(images, output, 0).total, plain.total)
    for beta in (0.0, 2.0, 16.0):
        total = BetaVAE(beta=beta)(images, output, 0).total
        torch.testing.assert_close(total - plain.total, (beta - 1) * plain.parts["kl"], rtol=1e-4, atol=1e-4)


def test_warmup_rises_to_beta_and_free_bits_are_weighted_by_it(images: Tensor, output: VAEOutput) -> None:
    objective = BetaVAE(beta=8.0, warmup={"kind": "linear", "steps": 4}, free_bits=1.0)
    floor = sum(max(1.0, value) for value in output.kl.mean(0).tolist())
    for step, weight in enumerate((0.0, 2.0, 4.0, 6.0, 8.0, 8.0)):
        terms = objective(images, output, step)
        assert terms.parts["beta"].item() == weight
        assert (terms.total - terms.parts["reconstruction"]).item() == pytest.approx(weight * floor, rel=1e-3, abs=1e-4)


def test_gradient_of_the_total_is_reconstruction_plus_beta_times_kl(images: Tensor) -> None:
    torch.manual_seed(0)
    model = build_model(NETWORK)
    weights = list(model.parameters())

    def gradient(part: str | None, beta: float) -> list[Tensor]:
        terms = BetaVAE(beta=beta)(images, model(images, sample=False), 0)
        value = terms.total if part is None else terms.parts[part]
        return [
            torch.zeros_like(w) if g is None else g
            for w, g in zip(weights, torch.autograd.grad(value, weights, allow_unused=True), strict=True)
        ]

    parts = zip(gradient(None, 5.0), gradient("reconstruction", 5.0), gradient("kl", 5.0), strict=True)
    for total, reconstruction, kl in parts:
        torch.testing.assert_close(total, reconstruction + 5 * kl, rtol=1e-4, atol=1e-5)


def test_a_negative_beta_is_told() -> None:
    with pytest.raises(VaexError, match=r"objective\.beta must be 0 or more, got 0\.0 and -4"):
        BetaVAE(beta=-4)
