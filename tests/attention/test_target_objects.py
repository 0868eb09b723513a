"""Targets that carry parameters, against closed forms and distributions of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from vaex.attention import Mahalanobis, NormalDifference, Sample, latent_attention
from vaex.attention.values import target_values
from vaex.build import build_model
from vaex.errors import VaexError
from vaex.types import NormalCodes

GENERATOR = torch.Generator().manual_seed(3)
MU = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
LOGVAR = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
ROOT = torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64)
CODES = NormalCodes(torch.tensor([0.5, -1.0, 2.0]), (ROOT @ ROOT.T).float(), torch.tensor([0.1, 0.2, 0.3]))


def small_vae() -> Any:
    torch.manual_seed(0)
    model = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})
    ready: Any = model.double().eval()
    return ready


def test_draws_of_a_sample_are_averaged_after_rectification() -> None:
    model, images = small_vae(), torch.rand(2, 1, 32, 32, dtype=torch.float64)
    found = latent_attention(model, images, "conv2", target=Sample(n=3, seed=5))
    generator = torch.Generator().manual_seed(5)
    single = []
    for _ in range(3):
        noise = torch.randn(3, generator=generator, dtype=torch.float64)

        def drawn(output: Any, noise: torch.Tensor = noise) -> torch.Tensor:
            z: torch.Tensor = output.mean + (0.5 * output.logvar).exp() * noise
            return z

        single.append(latent_attention(model, images, "conv2", target=drawn))
    torch.testing.assert_close(found, torch.stack(single).mean(0))
    assert not torch.allclose(single[0], single[1])
    named = latent_attention(model, images, "conv2", target={"name": "sample", "n": 3, "seed": 5}, latents=[1])
    torch.testing.assert_close(named, found[:, 1:2])


def test_normal_difference_has_the_moments_of_equation_4() -> None:
    drawn = target_values((MU, LOGVAR), NormalDifference(CODES, n=4000, seed=1)).unflatten(1, (4000, 3))
    mean, own = CODES.mean.double() - MU, CODES.covariance.diagonal().double() + CODES.variance.double()
    spread = (own + LOGVAR.exp()).sqrt()
    assert bool(((drawn.mean(1) - mean).abs() < 5 * spread / 4000**0.5).all())
    torch.testing.assert_close(drawn.std(1), spread, rtol=0.06, atol=0)


def test_mahalanobis_is_the_distance_in_the_normal_distribution() -> None:
    found = target_values((MU, LOGVAR), Mahalanobis(CODES, ridge=0.0))[:, 0]
    normal = MultivariateNormal(CODES.mean.double(), CODES.covariance.double())
    at_mean = normal.log_prob(CODES.mean.double())
    torch.testing.assert_close(found, 2 * (at_mean - normal.log_prob(MU)), rtol=1e-3, atol=1e-4)


def test_mahalanobis_survives_a_collapsed_latent() -> None:
    codes = CODES._replace(covariance=torch.diag(torch.tensor([1.0, 2.0, 0.0])))
    assert bool(target_values((MU, LOGVAR), Mahalanobis(codes)).isfinite().all())


def test_neg_elbo_is_minus_the_bound_at_the_mean() -> None:
    model, images = small_vae(), torch.rand(2, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        posterior = model.encode(images)
        found = target_values(posterior, "neg_elbo", model=model, images=images)
        fit = Bernoulli(model.decode(posterior.mean).mean, validate_args=False).log_prob(images).sum((1, 2, 3))
        kl = kl_divergence(Normal(posterior.mean, (posterior.logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(found[:, 0], kl - fit, rtol=1e-5, atol=1e-5)
    assert latent_attention(model, images, "conv2", target="neg_elbo").shape == (2, 1, 32, 32)


def test_targets_by_name_read_the_calibration_of_the_model() -> None:
    model, images = small_vae(), torch.rand(2, 1, 32, 32, dtype=torch.float64)
    model.calibration = {"codes": CODES._asdict()}
    for name, target, count in (
        ("normal_difference", NormalDifference(CODES), 3),
        ("mahalanobis", Mahalanobis(CODES), 1),
    ):
        found = latent_attention(model, images, "conv2", target=name)
        assert found.shape == (2, count, 32, 32)
        torch.testing.assert_close(found, latent_attention(model, images, "conv2", target=target))


def test_layers_are_fused_with_a_largest_value_of_one_each() -> None:
    model, images = small_vae(), torch.rand(2, 1, 32, 32, dtype=torch.float64)
    for rectify in ("relu", "none", "abs"):
        single = [latent_attention(model, images, layer, rectify=rectify) for layer in ("conv1", "conv2")]
        scaled = [maps / maps.abs().amax((2, 3), keepdim=True).clamp(min=1e-30) for maps in single]
        found = latent_attention(model, images, ["conv1", "conv2"], rectify=rectify)
        torch.testing.assert_close(found, (scaled[0] + scaled[1]) / 2)
        product = latent_attention(model, images, ["conv1", "conv2"], rectify=rectify, fuse="product")
        both = scaled[0] * scaled[1]  # above 0 where the layers agree about the sign, which is then kept
        expected = torch.where(both > 0, both.clamp(min=0).sqrt() * scaled[0].sign(), 0.0)
        torch.testing.assert_close(product, expected)


@pytest.mark.parametrize(
    ("target", "latents", "sentence"),
    [
        ({"name": "sample", "n": 0}, None, "at least 1 draw"),
        ({"name": "sample", "draws": 2}, None, "no option 'draws'"),
        ({"name": "sampel"}, None, "did you mean 'sample'"),
        ("neg_elbo", None, "needs a VAE whose decode"),
        ("normal_difference", None, "not calibrated"),
        ("mahalanobis", None, "not calibrated"),
        (Mahalanobis(CODES), [0], "of the whole code"),
    ],
)
def test_bad_targets_are_answered_in_one_sentence(target: Any, latents: Any, sentence: str) -> None:
    with pytest.raises(VaexError, match=sentence):
        target_values((MU, LOGVAR), target, latents)


@pytest.mark.parametrize("cells", ["sum", "max", (1, 2)])
def test_normal_difference_of_a_latent_grid_is_that_of_its_reduced_code(cells: Any) -> None:
    """u = mu_normal - mu + sqrt(s_normal^2 + s^2) eps; mu and s^2 are those of the sum, the largest or one cell."""
    generator = torch.Generator().manual_seed(3)
    mean, logvar = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    target = NormalDifference(CODES, n=2, seed=5)
    found = target_values((mean, logvar), target, reduce=cells)
    noise = torch.Generator().manual_seed(5)
    eps = [torch.randn(3, generator=noise, dtype=torch.float64) for _ in range(2)]
    for image in range(2):
        for latent in range(3):
            means, variances = mean[image, latent], logvar[image, latent].exp()
            if cells == "sum":
                mu, own = means.sum(), variances.sum()
            else:
                row, column = divmod(int(means.argmax()), 5) if cells == "max" else cells
                mu, own = means[row, column], variances[row, column]
            spread = (CODES.covariance[latent, latent] + CODES.variance[latent] + own).sqrt()
            for draw in range(2):
                expected = CODES.mean[latent] - mu + spread * eps[draw][latent]
                torch.testing.assert_close(found[image, 3 * draw + latent], expected)
