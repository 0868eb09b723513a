"""What is asked of a model: values, fills and responses by hand, modules by finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import Sample, latent_attention
from vaex.attention.image_methods import blurred
from vaex.build import build_model
from vaex.errors import VaexError
from vaex.metrics.faithfulness import FaithfulnessMetrics, Settings
from vaex.probing import (
    attention_of,
    codes_of_latents,
    latent_answer,
    latent_question,
    reconstructed,
    target_modules,
    values_of,
)

SMALL = Settings(steps=2, squares=2, subsets=2, shares=(0.5,), samples=1)


@pytest.fixture(scope="module")
def vae() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_values_are_what_the_maps_are_of(vae: Any, images: Tensor) -> None:
    vae.train()
    posterior = vae.encode(images)
    mean, logvar = posterior.mean.detach(), posterior.logvar.detach()
    torch.testing.assert_close(values_of(vae, images, "mean", [2, 0])(images), mean[:, [2, 0]])
    kl = 0.5 * (mean**2 + logvar.exp() - logvar - 1)
    torch.testing.assert_close(values_of(vae, images, "kl")(images), kl, atol=1e-6, rtol=1e-5)
    assert values_of(vae, images, "total_kl")(images).shape == (2, 1)
    generator = torch.Generator().manual_seed(4)
    noise = torch.stack([torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(3)]).mean(0).float()
    drawn = values_of(vae, images, Sample(n=3, seed=4), [1])(images)
    torch.testing.assert_close(drawn, (mean + (0.5 * logvar).exp() * noise)[:, [1]], atol=1e-5, rtol=1e-5)
    assert vae.training
    vae.eval()


def test_a_likelihood_stays_that_of_the_explained_images(vae: Any, images: Tensor) -> None:
    other = images.flip(3)
    posterior = vae.encode(other)
    expected = posterior.kl_to_normal().sum(1) - vae.decode(posterior.mean).log_prob(images)
    found = values_of(vae, images, "neg_elbo")(other)
    torch.testing.assert_close(found[:, 0], expected.detach(), rtol=1e-5, atol=1e-3)


def test_fills_and_response(vae: Any, images: Tensor) -> None:
    with torch.no_grad():
        codes = vae.encode(images).mean
        decoded = vae.decode(codes).mean
        without = [vae.decode(codes * (torch.arange(3) != latent)).mean for latent in (2, 1)]
        step = torch.eye(3)[2]
        response = (vae.decode(codes + step).mean - vae.decode(codes - step).mean).abs().sum(1)
    torch.testing.assert_close(codes_of_latents(vae, images), codes)
    torch.testing.assert_close(reconstructed(vae, images), decoded)
    asked = latent_question(vae, images, [2, 1])
    torch.testing.assert_close(asked.fill, torch.stack(without, 1))
    assert asked.response is not None
    torch.testing.assert_close(asked.response[:, 0], response, atol=1e-6, rtol=1e-4)
    for fill, expected in (("reconstruction", decoded), ("blurred", blurred(images)), ("black", 0 * images)):
        torch.testing.assert_close(latent_question(vae, images, fill=fill).fill, expected)
    total = latent_question(vae, images, target="total_kl")
    assert (total.targets, total.response) == (1, None)
    torch.testing.assert_close(total.fill, decoded)
    with pytest.raises(VaexError, match="did you mean 'without'"):
        latent_question(vae, images, fill="witout")
    with pytest.raises(VaexError, match="maps of single latents"):
        latent_question(vae, images, target="total_kl", fill="without")


class Bare(nn.Module):
    """An encoder without decoder, whose code is a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return codes (B, 2, h, w)."""
        code: Tensor = self.conv(images)
        return code


def test_a_model_without_decoder_is_filled_with_blur(images: Tensor) -> None:
    asked = latent_question(Bare(), images)
    torch.testing.assert_close(asked.fill, blurred(images))
    assert asked.response is None
    assert reconstructed(Bare(), images) is None
    with pytest.raises(VaexError, match="needs a model that decodes images"):
        latent_question(Bare(), images, fill="reconstruction")


def test_modules_are_those_that_move_the_target(vae: Any, images: Tensor) -> None:
    for target in ("mean", "kl"):
        found = target_modules(vae, images, target)
        start = values_of(vae, images, target)(images)
        for name, module in vae.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            before = module.weight.detach().clone()
            with torch.no_grad():
                module.weight += 0.1
            moved = not torch.allclose(values_of(vae, images, target)(images), start)
            with torch.no_grad():
                module.weight.copy_(before)
            assert moved == (name in found), (target, name)
    assert target_modules(vae, images)[0] == "encoder.mean"
    assert target_modules(vae, images)[-1] == "encoder.conv1"


def test_answer_gives_what_each_measure_needs(vae: Any, images: Tensor) -> None:
    def explain(network: nn.Module, seen: Tensor) -> Tensor:
        return attention_of(network, seen, None, method="hires_cam", rectify="none")

    maps = latent_attention(vae, images, method="hires_cam", rectify="none")
    answer = latent_answer(vae, images, explain, signed=True, modules=["encoder.mean"])
    torch.testing.assert_close(answer.maps, maps)
    assert answer.signed is answer.maps
    assert answer.explain is not None
    torch.testing.assert_close(answer.explain(images.flip(2)), explain(vae, images.flip(2)))
    assert answer.randomised is not None
    (fresh,) = answer.randomised
    assert not torch.allclose(fresh, maps)
    assert latent_answer(vae, images, explain).signed is None
    assert latent_answer(vae, images, explain).randomised is None
    metric = FaithfulnessMetrics(3)
    metric.update(latent_question(vae, images, settings=SMALL), answer := latent_answer(vae, images, explain))
    assert set(metric.compute()) == {"deletion", "insertion", "agreement", "instability"}
    assert answer.maps.shape == (2, 3, 32, 32)
