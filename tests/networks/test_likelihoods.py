"""Likelihoods against torch.distributions, closed-form gradients and optima."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions

from vaex.errors import VaexError
from vaex.networks.likelihoods import Bernoulli, Gaussian, Laplace, LikelihoodHead


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def parameters() -> Tensor:
    return 3 * torch.randn(5, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def oracle(name: str, parameters: Tensor, scale: float) -> distributions.Distribution:
    if name == "bernoulli":
        return distributions.Bernoulli(logits=parameters, validate_args=False)  # grey values are no support of it
    return {"gaussian": distributions.Normal, "laplace": distributions.Laplace}[name](parameters, scale)


@pytest.mark.parametrize("binary", [True, False])
def test_bernoulli_is_the_distribution_summed_over_pixels(images: Tensor, parameters: Tensor, binary: bool) -> None:
    x = images.round() if binary else images
    likelihood = LikelihoodHead("bernoulli")(parameters)
    expected = oracle("bernoulli", parameters, 1.0)
    log_prob = likelihood.log_prob(x)
    assert log_prob.shape == (5,)
    torch.testing.assert_close(log_prob, expected.log_prob(x).sum((1, 2, 3)))
    torch.testing.assert_close(likelihood.mean, expected.mean)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize(
    ("scale", "learned"), [(1.0, False), (0.1, False), (1e-3, False), (50.0, False), (1.0, True), (0.1, True)]
)
def test_scaled_likelihoods_are_the_distributions(
    images: Tensor, parameters: Tensor, name: str, scale: float, learned: bool
) -> None:
    head = LikelihoodHead(name, scale=scale, learned=learned).double()
    with torch.no_grad():  # the float32 buffer of the scale is not what is compared here
        head.log_scale.fill_(math.log(scale))
    likelihood = head(parameters)
    torch.testing.assert_close(likelihood.mean, parameters)
    expected = oracle(name, parameters, scale).log_prob(images).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.log_prob(images), expected)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_a_fixed_scale_is_taken_as_it_is(name: str) -> None:
    """Clamping is for learned scales: 1e-4 must not silently become exp(-6)."""
    for scale in (1e-4, 100.0):
        head = LikelihoodHead(name, scale=scale)
        assert head(torch.zeros(1, 1, 1, 1)).log_scale.item() == pytest.approx(math.log(scale))
        assert not list(head.parameters())
        assert "log_scale" in head.state_dict()


def test_a_learned_scale_is_one_clamped_parameter() -> None:
    head = LikelihoodHead("gaussian", scale=0.5, learned=True)
    (log_scale,) = head.parameters()
    assert log_scale.shape == ()
    assert log_scale.item() == pytest.approx(math.log(0.5))
    for value, expected in ((-20.0, -6.0), (20.0, 3.0), (1.0, 1.0)):
        with torch.no_grad():
            log_scale.fill_(value)
        assert head(torch.zeros(1, 1, 1, 1)).log_scale.item() == expected


def test_gradient_of_the_learned_scale_is_the_closed_form(images: Tensor, parameters: Tensor) -> None:
    """d(-log p)/d(log s) per pixel: 1 - ((x - m) / s)^2 for the normal, 1 - |x - m| / s for the Laplace."""
    pixels = images[0].numel()
    for name, power in (("gaussian", 2), ("laplace", 1)):
        head = LikelihoodHead(name, scale=0.7, learned=True).double()
        loss = -head(parameters).log_prob(images).mean()
        (gradient,) = torch.autograd.grad(loss, head.log_scale)
        scaled = (images - parameters).abs() / head.log_scale.exp()
        expected = (pixels - (scaled**power).sum((1, 2, 3))).mean()
        torch.testing.assert_close(gradient, expected)


def test_the_learned_scale_finds_its_optimum() -> None:
    """Maximum likelihood of the shared scale: root mean square error, or mean absolute error."""
    generator = torch.Generator().manual_seed(0)
    location = torch.zeros(64, 1, 8, 8)
    images = 0.3 * torch.randn(64, 1, 8, 8, generator=generator)
    for name, optimum in (("gaussian", images.square().mean().sqrt()), ("laplace", images.abs().mean())):
        head = LikelihoodHead(name, scale=1.0, learned=True)
        optimiser = torch.optim.LBFGS(head.parameters(), max_iter=50)

        def closure(head: LikelihoodHead = head, optimiser: torch.optim.LBFGS = optimiser) -> Tensor:
            optimiser.zero_grad()
            loss: Tensor = -head(location).log_prob(images).mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        torch.testing.assert_close(head.log_scale.detach().exp(), optimum, rtol=1e-3, atol=0)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[[-1e4, 1e4]]]], requires_grad=True)
    log_prob = Bernoulli(logits).log_prob(torch.tensor([[[[1.0, 1.0]]]]))
    torch.testing.assert_close(log_prob, torch.tensor([-1e4]))
    log_prob.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[[[1.0, 0.0]]]]))


def test_gradient_of_the_logits_is_the_residual(images: Tensor, parameters: Tensor) -> None:
    logits = parameters.requires_grad_()
    (gradient,) = torch.autograd.grad(Bernoulli(logits).log_prob(images).sum(), logits)
    torch.testing.assert_close(gradient, images - torch.sigmoid(logits))


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_half_precision_is_summed_in_single(kind: type[Gaussian] | type[Laplace]) -> None:
    """A sum of 65,536 terms in bf16 stops growing at 256."""
    location = torch.ones(2, 1, 256, 256, dtype=torch.bfloat16)
    log_prob = kind(location, torch.tensor(0.0, dtype=torch.bfloat16)).log_prob(torch.zeros_like(location))
    assert log_prob.dtype == torch.float32
    per_pixel = -0.5 - 0.5 * math.log(2 * math.pi) if kind is Gaussian else -1 - math.log(2)
    torch.testing.assert_close(log_prob, torch.full((2,), per_pixel * 65536), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "gausian"}, "Unknown likelihood 'gausian': did you mean 'gaussian'"),
        ({"name": "gaussian", "scale": 0.0}, "scale must be positive, got 0.0"),
        ({"name": "gaussian", "scale": math.nan}, "scale must be positive, got nan"),
        (
            {"name": "laplace", "scale": 1e-3, "learned": True},
            r"between 0\.0025 and 20\.1 when it is learned, got 0.001",
        ),
        ({"name": "bernoulli", "learned": True}, "Bernoulli likelihood has no scale to learn"),
    ],
)
def test_bad_settings_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        LikelihoodHead(**options)  # type: ignore[arg-type]
