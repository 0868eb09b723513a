"""The InfoVAE against double loops, and against the exact MMD of two Gaussians."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objectives.toys import black, codes, output_of
from vaex.build import build_objective
from vaex.errors import VaexError
from vaex.objectives import ELBO, InfoVAE
from vaex.objectives.info_vae import mmd


def kernel_value(a: Tensor, b: Tensor, kernel: str, bandwidth: float) -> float:
    squared = sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))
    width = len(a) * bandwidth**2
    if kernel == "rbf":
        return math.exp(-squared / (2 * width))
    return sum(2 * width * s / (2 * width * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))


def by_loops(a: Tensor, b: Tensor, kernel: str, bandwidth: float) -> float:
    n = len(a)
    within = sum(
        kernel_value(c[i], c[j], kernel, bandwidth) for c in (a, b) for i in range(n) for j in range(n) if i != j
    )
    across = sum(kernel_value(a[i], b[j], kernel, bandwidth) for i in range(n) for j in range(n))
    return within / (n * (n - 1)) - 2 * across / n**2


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
@pytest.mark.parametrize("bandwidth", [0.5, 1.0])
def test_the_mmd_is_that_of_a_double_loop(kernel: str, bandwidth: float) -> None:
    a, b, _ = codes(6, 3)
    assert mmd(a, b, kernel, bandwidth).item() == pytest.approx(by_loops(a, b, kernel, bandwidth))


def test_the_mmd_of_two_gaussians_is_its_closed_form() -> None:
    """E exp(-d^2 / 2) of d ~ N(m, v), the difference of two codes, is exp(-m^2 / 2(1 + v)) / sqrt(1 + v)."""

    def expectation(shift: float, variance: float) -> float:
        return math.sqrt(1 / (1 + variance)) * math.exp(-(shift**2) / (2 * (1 + variance)))

    torch.manual_seed(0)
    a, b = torch.randn(2000, 1, dtype=torch.float64) * 0.5 + 1.5, torch.randn(2000, 1, dtype=torch.float64)
    expected = expectation(0, 0.5) + expectation(0, 2.0) - 2 * expectation(1.5, 1.25)
    assert mmd(a, b).item() == pytest.approx(expected, abs=0.03)
    same = mmd(torch.randn(2000, 1), torch.randn(2000, 1)).item()
    assert abs(same) < 0.01


@pytest.mark.parametrize(("alpha", "scale"), [(0.0, 1000.0), (0.5, 3.0), (1.0, 10.0)])
def test_the_total_is_the_formula(alpha: float, scale: float) -> None:
    z, mean, logvar = codes(6, 3)
    torch.manual_seed(3)
    drawn = torch.randn_like(z)
    torch.manual_seed(3)
    terms = InfoVAE(alpha, scale, "imq")(black(6), output_of(z, mean, logvar), 0)
    parts = ELBO()(black(6), output_of(z, mean, logvar), 0).parts
    distance = by_loops(z, drawn, "imq", 1.0)
    expected = parts["reconstruction"] + (1 - alpha) * parts["kl"] + (alpha + scale - 1) * distance
    assert terms.parts["mmd"].item() == pytest.approx(distance)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_codes_far_from_the_prior_are_drawn_to_it() -> None:
    z = torch.full((8, 2), 3.0, requires_grad=True)
    torch.manual_seed(0)
    InfoVAE()(black(8), output_of(z, torch.zeros(8, 2), torch.zeros(8, 2)), 0).total.backward()
    assert z.grad is not None
    assert bool((z.grad > 0).all())


def test_warmup_weighs_all_but_the_reconstruction() -> None:
    objective = InfoVAE(warmup={"kind": "linear", "steps": 2})
    totals = []
    for step in (0, 1, 2):
        torch.manual_seed(0)
        totals.append(objective(black(6), output_of(*codes(6, 3)), step))
    plain = totals[0].parts["reconstruction"]
    torch.testing.assert_close(totals[0].total, plain.to(totals[0].total))
    torch.testing.assert_close(totals[1].total - plain, (totals[2].total - plain) / 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.5}, r"alpha must be at most 1"),
        ({"alpha": -0.5}, r"objective\.alpha must be a number of 0 or more"),
        ({"alpha": 0.2, "scale": 0.5}, r"alpha \+ scale at least 1"),
        ({"scale": -3.0}, r"objective\.scale must be a number of 0 or more"),
        ({"kernel": "rbg"}, r"Unknown objective\.kernel 'rbg': did you mean 'rbf'"),
        ({"bandwidth": 0.0}, r"objective\.bandwidth must be positive, got 0"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        build_objective({"name": "info_vae", **options})


def test_bad_batches_are_told() -> None:
    with pytest.raises(VaexError, match=r"objective=info_vae .* batch of one"):
        InfoVAE()(black(1), output_of(*codes(1, 3)), 0)
    with pytest.raises(VaexError, match=r"objective=info_vae .* latent grid"):
        InfoVAE()(black(4), output_of(*(part[..., None, None] for part in codes(4, 3))), 0)
    with pytest.raises(VaexError, match=r"two sets of 2 codes or more, got \(3, 2\) and \(4, 2\)"):
        mmd(torch.zeros(3, 2), torch.zeros(4, 2))
