"""DIP-VAE against numpy.cov and loops over pairs of latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.objectives.toys import black, codes, output_of
from vaex.build import build_objective
from vaex.errors import VaexError
from vaex.objectives import DIPVAEI, DIPVAEII, ELBO


def penalties(covariance: NDArray[Any]) -> tuple[float, float]:
    """Return the sums off and on the diagonal by loops."""
    latents = len(covariance)
    pairs = [(i, j) for i in range(latents) for j in range(latents)]
    return (
        sum(covariance[i, j] ** 2 for i, j in pairs if i != j),
        sum((covariance[i, i] - 1) ** 2 for i in range(latents)),
    )


def expected_covariance(mean: Tensor, logvar: Tensor, kind: str) -> NDArray[Any]:
    found: NDArray[Any] = np.cov(mean.numpy(), rowvar=False, bias=True)
    return found + (np.diag(np.exp(logvar.numpy()).mean(0)) if kind == "dip_vae_ii" else 0)


@pytest.mark.parametrize("kind", ["dip_vae_i", "dip_vae_ii"])
def test_the_penalties_are_those_of_numpys_covariance(kind: str) -> None:
    z, mean, logvar = codes(7, 4)
    off_diagonal, diagonal = penalties(expected_covariance(mean, logvar, kind))
    objective = build_objective({"name": kind, "off_diagonal": 3.0, "diagonal": 5.0})
    terms = objective(black(7), output_of(z, mean, logvar), 0)
    assert terms.parts["dip_off_diagonal"].item() == pytest.approx(off_diagonal)
    assert terms.parts["dip_diagonal"].item() == pytest.approx(diagonal)
    plain = ELBO()(black(7), output_of(z, mean, logvar), 0).total.item()
    assert terms.total.item() == pytest.approx(plain + 3 * off_diagonal + 5 * diagonal, rel=1e-6)


def test_the_covariance_of_draws_is_what_ii_states() -> None:
    _, mean, logvar = codes(200, 3, seed=2)
    torch.manual_seed(0)
    many = (mean + torch.randn(2000, *mean.shape, dtype=mean.dtype) * (logvar / 2).exp()).reshape(-1, 3)
    found = DIPVAEII().covariance(output_of(mean, mean, logvar), 0)
    np.testing.assert_allclose(found.numpy(), np.cov(many.numpy(), rowvar=False), atol=0.01)


@pytest.mark.parametrize("objective", [DIPVAEI(), DIPVAEII()])
def test_white_codes_cost_nothing(objective: DIPVAEI) -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    variance = 0.0 if type(objective) is DIPVAEI else 0.25
    mean = corners * (1 - variance) ** 0.5
    logvar = torch.full_like(mean, np.log(variance) if variance else -30.0)
    parts = objective(black(4), output_of(mean, mean, logvar), 0).parts
    assert parts["dip_off_diagonal"].item() == pytest.approx(0, abs=1e-10)
    assert parts["dip_diagonal"].item() == pytest.approx(0, abs=1e-10)


def test_the_gradient_is_that_of_finite_differences() -> None:
    _, mean, logvar = codes(5, 3)

    def loss(mean: Tensor, logvar: Tensor) -> Tensor:
        parts = DIPVAEII()(black(5), output_of(mean, mean, logvar), 0).parts
        return parts["dip_off_diagonal"] + 2 * parts["dip_diagonal"]

    assert torch.autograd.gradcheck(loss, (mean.requires_grad_(), logvar.requires_grad_()))


def test_autocast_does_not_round_the_covariance() -> None:
    z, mean, logvar = (part.float() for part in codes(9, 4))
    plain = DIPVAEI()(black(9), output_of(z, mean, logvar), 0).parts["dip_off_diagonal"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = DIPVAEI()(black(9), output_of(z, mean, logvar), 0).parts["dip_off_diagonal"]
    torch.testing.assert_close(plain, rounded)


def test_the_ratios_of_the_defaults_are_those_of_the_paper() -> None:
    assert DIPVAEI().diagonal == 10 * DIPVAEI().off_diagonal
    assert DIPVAEII().diagonal == DIPVAEII().off_diagonal


def test_warmup_and_free_bits() -> None:
    output = output_of(*codes(6, 3))
    objective = DIPVAEI(warmup={"kind": "linear", "steps": 2})
    start, half, full = (objective(black(6), output, step) for step in (0, 1, 2))
    plain = start.parts["reconstruction"]
    torch.testing.assert_close(start.total, plain.to(start.total))
    torch.testing.assert_close(half.total - plain, (full.total - plain) / 2)
    floored = DIPVAEI(free_bits=100.0)(black(6), output, 0).total - DIPVAEI()(black(6), output, 0).total
    torch.testing.assert_close(floored, 300 - start.parts["kl"].to(floored))


@pytest.mark.parametrize("kind", ["dip_vae_i", "dip_vae_ii"])
def test_bad_input_is_told(kind: str) -> None:
    with pytest.raises(VaexError, match=r"objective\.off_diagonal must be a number of 0 or more, got -2"):
        build_objective({"name": kind, "off_diagonal": -2.0})
    with pytest.raises(VaexError, match=r"objective\.diagonal must be a number of 0 or more"):
        build_objective({"name": kind, "diagonal": -1.0})
    objective = build_objective({"name": kind})
    with pytest.raises(VaexError, match=f"objective={kind} .* batch of one"):
        objective(black(1), output_of(*codes(1, 3)), 0)
    with pytest.raises(VaexError, match=f"objective={kind} .* latent grid"):
        objective(black(4), output_of(*(part[..., None, None] for part in codes(4, 3))), 0)
