"""The annealed VAE against its formula on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.toys import black, codes, output_of
from vaex.build import build_objective
from vaex.errors import VaexError
from vaex.objectives import ELBO, AnnealedVAE
from vaex.types import Posterior


@pytest.mark.parametrize(("step", "capacity"), [(0, 0.0), (1, 0.5), (10, 5.0), (39, 19.5), (40, 20.0), (10**9, 20.0)])
def test_the_capacity_rises_in_a_line_and_stays(step: int, capacity: float) -> None:
    terms = AnnealedVAE(gamma=3.0, capacity=20.0, steps=40)(black(2), output_of(*codes(2, 3)), step)
    assert terms.parts["capacity"].item() == capacity
    assert not terms.parts["capacity"].requires_grad


def test_a_kl_above_and_below_the_capacity_costs_its_distance() -> None:
    # means 2 and 4 of unit variance: KL 2 and 8, on average 5
    mean = torch.tensor([[2.0], [4.0]])
    output = output_of(mean, mean, torch.zeros(2, 1))
    for capacity, distance in ((0.0, 5.0), (4.0, 1.0), (5.0, 0.0), (12.0, 7.0)):
        terms = AnnealedVAE(gamma=10.0, capacity=capacity, steps=1)(black(2), output, 1)
        assert terms.parts["kl"].item() == pytest.approx(5.0)
        assert (terms.total - terms.parts["reconstruction"]).item() == pytest.approx(10 * distance, abs=1e-4)


def test_the_kl_is_averaged_before_the_distance_is_taken() -> None:
    mean = torch.tensor([[0.0], [4.0]])  # KL 0 and 8: at C = 4 each is 4 away, their mean is not
    terms = AnnealedVAE(capacity=4.0, steps=1)(black(2), output_of(mean, mean, torch.zeros(2, 1)), 1)
    torch.testing.assert_close(terms.total, terms.parts["reconstruction"])


def test_its_gradient_turns_at_the_capacity() -> None:
    for start, sign in ((1.0, -1), (5.0, 1)):  # KL .5 and 12.5, C = 8
        mean = torch.full((1, 1), start, requires_grad=True)
        output = output_of(mean, mean, torch.zeros(1, 1))
        AnnealedVAE(gamma=2.0, capacity=8.0, steps=1)(black(1), output, 1).total.backward()
        assert mean.grad is not None
        assert mean.grad.item() == pytest.approx(sign * 2 * start)


def test_a_latent_grid_sums_its_cells() -> None:
    mean = torch.full((2, 3, 4, 5), 2.0)
    posterior = Posterior(mean, torch.zeros_like(mean))
    output = output_of(*codes(2, 3))._replace(posterior=posterior, kl=posterior.kl_to_normal())
    assert AnnealedVAE()(black(2), output, 0).parts["kl"].item() == pytest.approx(2 * 60)


def test_the_defaults_are_those_of_the_paper_and_parts_those_of_the_elbo() -> None:
    objective = AnnealedVAE()
    assert (objective.gamma, objective.capacity, objective.steps) == (1000.0, 25.0, 100_000)
    output = output_of(*codes(4, 3))
    parts, plain = objective(black(4), output, 5).parts, ELBO()(black(4), output, 5).parts
    assert all(torch.equal(parts[name], plain[name]) for name in ("reconstruction", "kl"))
    assert set(parts) == {"reconstruction", "kl", "capacity"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -1.0}, r"objective\.gamma must be a number of 0 or more, got -1"),
        ({"capacity": float("nan")}, r"objective\.capacity must be .* got nan"),
        ({"steps": 0}, r"objective\.steps must be at least 1, got 0"),
        ({"capacities": 1.0}, r"did you mean 'capacity'"),
    ],
)
def test_bad_options_are_told(options: dict[str, float], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        build_objective({"name": "annealed_vae", **options})
