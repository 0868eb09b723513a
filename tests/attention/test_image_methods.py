"""Methods that look at the image again, against closed forms and plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import IMAGE_METHODS, IntegratedGradients, SmoothGradient, latent_attention
from vaex.attention.image_methods import blurred
from vaex.build import build_model
from vaex.errors import VaexError


class Quadratic(nn.Module):
    """Two latents: <w, x> and <v, x^2> / 2, so that all gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(2, 8, 8, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(2, 8, 8, generator=generator, dtype=torch.float64))
        self.stem = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        images = self.stem(images)
        return torch.stack([(self.w * images).sum((1, 2, 3)), (self.v * images.square()).sum((1, 2, 3)) / 2], 1)


IMAGES = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def maps(method: Any, model: nn.Module | None = None, **options: Any) -> Tensor:
    return latent_attention(model or Quadratic(), IMAGES, method=method, rectify="none", **options)


def test_gradient_is_the_derivative_summed_over_colours() -> None:
    net = Quadratic()
    expected = torch.stack([net.w.expand(3, -1, -1, -1).sum(1), (net.v * IMAGES).sum(1)], 1)
    torch.testing.assert_close(maps("gradient"), expected.detach())


def test_smooth_gradient_averages_the_derivative_over_the_noise() -> None:
    net = Quadratic()
    generator = torch.Generator().manual_seed(7)
    noise = sum(torch.randn(2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(5)) / 5
    found = maps({"name": "smooth_gradient", "n": 5, "deviation": 0.3, "seed": 7})
    torch.testing.assert_close(found[:, 1], (net.v * (IMAGES + 0.3 * noise)).sum(1).detach())
    torch.testing.assert_close(found, maps(SmoothGradient(5, 0.3, 7)))
    alone = latent_attention(net, IMAGES[1:2], method=SmoothGradient(5, 0.3, 7), rectify="none")
    torch.testing.assert_close(alone, found[1:2])


@pytest.mark.parametrize("baseline", ["black", "blurred"])
def test_integrated_gradients_are_complete(baseline: str) -> None:
    net = Quadratic()
    start = torch.zeros_like(IMAGES) if baseline == "black" else blurred(IMAGES)
    found = maps(IntegratedGradients(steps=1, baseline=baseline))  # a quadratic's midpoint rule is exact
    torch.testing.assert_close(found.sum((-2, -1)), (net(IMAGES) - net(start)).detach())


def test_counterfactual_integrated_gradients_sum_to_the_change_that_the_latent_makes() -> None:
    torch.manual_seed(0)
    model = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})
    model.double().eval()
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    found = latent_attention(
        model, images, latents=[2, 0], method=IntegratedGradients(200, "counterfactual"), rectify="none"
    )
    with torch.no_grad():
        mean = model.encode(images).mean
        for column, latent in enumerate([2, 0]):
            z = mean.clone()
            z[:, latent] = 0
            other = model.encode(model.decode(z).mean).mean
            torch.testing.assert_close(
                found[:, column].sum((-2, -1)), mean[:, latent] - other[:, latent], rtol=0.02, atol=1e-4
            )


def test_a_blur_keeps_a_flat_image_and_the_middle_of_a_ramp() -> None:
    torch.testing.assert_close(blurred(torch.full((1, 2, 16, 16), 0.3)), torch.full((1, 2, 16, 16), 0.3))
    ramp = torch.linspace(0, 1, 65, dtype=torch.float64).expand(1, 1, 65, 65)
    assert float((blurred(ramp)[..., 32] - 0.5).abs().max()) < 1e-9
    assert blurred(IMAGES).std() < IMAGES.std() / 2


def test_score_cam_by_a_loop_over_channels() -> None:
    torch.manual_seed(0)
    model = build_model(
        {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 2, "depth": 2, "hidden": 8}
    ).eval()
    images = torch.rand(2, 1, 32, 32)
    found = latent_attention(model, images, "conv2", method="score_cam", rectify="none", size="layer")
    with torch.no_grad():
        activation = model(images, keep=("conv2",)).activations["conv2"]
        for b in range(2):
            start = model.encode(torch.zeros(1, 1, 32, 32)).mean[0]
            changes = []
            for channel in activation[b]:
                mask = (channel - channel.min()) / (channel.max() - channel.min())
                mask = nn.functional.interpolate(mask[None, None], size=(32, 32), mode="bilinear")
                changes.append((model.encode(images[b : b + 1] * mask).mean[0] - start).abs())
            weights = torch.stack(changes, 1)
            weights = weights / weights.sum(1, keepdim=True)
            torch.testing.assert_close(found[b], torch.einsum("tk,khw->thw", weights, activation[b]))


def test_a_gradient_map_may_be_part_of_a_loss() -> None:
    net = Quadratic()
    maps("gradient", net, create_graph=True)[:, 1].sum().backward()
    assert net.v.grad is not None
    torch.testing.assert_close(net.v.grad, IMAGES.sum(0))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ({"name": "integrated_gradients", "baseline": "grey"}, "Unknown baseline of integrated gradients 'grey'"),
        ({"name": "integrated_gradients", "steps": 0}, "at least 1 step, got 0"),
        ({"name": "integrated_gradients", "step": 3}, "did you mean 'steps'"),
        ({"name": "smooth_gradient", "n": 0}, "n >= 1"),
        ({"name": "smooth_gradient", "n": 1.5}, "a whole number"),
        ({"name": "score_cam", "baseline": "counterfactual"}, "Unknown baseline of score_cam"),
        ({"name": "grad_cam", "n": 2}, "takes no options"),
        ({"name": "integrated_gradients", "baseline": "counterfactual"}, "needs a model with a decoder"),
        ("integrated_gradient", "did you mean 'integrated_gradients'"),
    ],
)
def test_bad_methods_are_answered_in_one_sentence(method: Any, sentence: str) -> None:
    with pytest.raises(VaexError, match=sentence):
        maps(method)


def test_score_cam_is_no_part_of_a_loss() -> None:
    with pytest.raises(VaexError, match="cannot be part of a loss"):
        maps("score_cam", layer="stem", create_graph=True)


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_the_model_is_left_as_it_was(method: str) -> None:
    model = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 2, "width": 2, "depth": 2, "norm": "batch"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        found = latent_attention(model, torch.rand(2, 1, 32, 32, generator=torch.Generator()), method=method)
    assert found.shape == (2, 2, 32, 32)
    assert not found.requires_grad
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
