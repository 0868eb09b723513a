"""neg_elbo with the methods of the pixels: the pixels that the likelihood compares with are constants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention import IntegratedGradients, SmoothGradient, latent_attention
from vaex.build import build_model

X = torch.rand(2, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    network = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8}
    ready: Any = build_model(network).double().eval()
    return ready


def score(model: Any, seen: Tensor, compared: Tensor = X) -> Tensor:
    """-log p(compared | z = mu(seen)) + KL(seen), (B,), by formulas of its own."""
    posterior = model.encode(seen)
    mean, logvar = posterior
    fit = F.binary_cross_entropy(model.decode(mean).mean, compared, reduction="none").sum((1, 2, 3))
    kl: Tensor = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)
    return fit + kl


def test_a_gradient_is_that_of_finite_differences(model: Any) -> None:
    found = latent_attention(model, X, method="gradient", target="neg_elbo", rectify="none")[:, 0]
    for row, column in ((0, 0), (5, 9), (11, 3)):
        step = torch.zeros_like(X)
        step[..., row, column] = 1e-5
        with torch.no_grad():
            slope = (score(model, X + step) - score(model, X - step)) / 2e-5
        torch.testing.assert_close(found[:, row, column], slope, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_are_complete(model: Any) -> None:
    maps = latent_attention(model, X, method=IntegratedGradients(64), target="neg_elbo", rectify="none")
    with torch.no_grad():
        expected = score(model, X) - score(model, torch.zeros_like(X))
        moving = score(model, X) - score(model, torch.zeros_like(X), torch.zeros_like(X))
    torch.testing.assert_close(maps.sum((1, 2, 3)), expected, rtol=1e-2, atol=1e-2)
    assert bool(((moving - expected).abs() > 1).all())  # the images' own change would be seen


def test_noisy_images_are_compared_with_the_image(model: Any) -> None:
    found = latent_attention(model, X, method=SmoothGradient(2, 0.1, 3), target="neg_elbo", rectify="none")[:, 0]
    generator = torch.Generator().manual_seed(3)
    parts = []
    for _ in range(2):
        noisy = (X + 0.1 * torch.randn(1, 32, 32, generator=generator, dtype=torch.float64)).requires_grad_()
        parts.append(torch.autograd.grad(score(model, noisy).sum(), noisy)[0].sum(1))
    torch.testing.assert_close(found, torch.stack(parts).mean(0), rtol=1e-5, atol=1e-8)


def test_masked_images_are_compared_with_the_image(model: Any) -> None:
    found = latent_attention(model, X, "conv1", method="score_cam", target="neg_elbo", rectify="none", size="layer")
    with torch.no_grad():
        activation = model.encoder.conv1(X)
        start, weights = score(model, torch.zeros_like(X)), []
        for k in range(activation.shape[1]):
            channel = activation[:, k : k + 1]
            low, high = channel.amin((2, 3), keepdim=True), channel.amax((2, 3), keepdim=True)
            mask = F.interpolate((channel - low) / (high - low), size=(32, 32), mode="bilinear")
            weights.append((score(model, mask * X) - start).abs())
        shares = torch.stack(weights, 1) / torch.stack(weights, 1).sum(1, keepdim=True)
        expected = (shares[:, :, None, None] * activation).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_pixels_of_a_loss_are_constants_too(model: Any) -> None:
    needy = X.clone().requires_grad_()
    maps = latent_attention(model, needy, method="gradient", target="neg_elbo", rectify="none", create_graph=True)
    expected = latent_attention(model, X, method="gradient", target="neg_elbo", rectify="none")
    torch.testing.assert_close(maps.detach(), expected)
