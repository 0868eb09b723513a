"""Feature VAEs: whitening by linear algebra of another library, likelihood by torch's, attention by closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.distributions import Normal

from vaex.attention import latent_attention
from vaex.build import build_model
from vaex.errors import VaexError
from vaex.networks import VAE, FeatureVAE
from vaex.networks.feature_coders import FeatureGaussian
from vaex.networks.feature_vae import statistics_of
from vaex.networks.whitening import RIDGE, PositionWhitening, Whitening
from vaex.objectives import ELBO

SMALL = {"shape": [3, 32, 32], "blocks": [0, 2], "size": 32, "grid": 8}
VECTOR: dict[str, Any] = {"name": "feature_vae", "latents": 3, "widths": [8, 6, 4], **SMALL}
GRID: dict[str, Any] = {"name": "feature_grid", "latents": 40, "hidden": 5, "decoder_hidden": 6, "rank": 4, **SMALL}
CHANNELS = 16 + 24


def build(network: dict[str, Any], **options: Any) -> FeatureVAE:
    torch.manual_seed(0)
    model = build_model({**network, **options})
    assert isinstance(model, FeatureVAE)
    return model


def drawn(count: int, seed: int = 0, channels: int = CHANNELS) -> Tensor:
    """Correlated features with another mean at each position, (N, K, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, channels, 8, 8, generator=generator)
    place = torch.randn(channels, 8, 8, generator=torch.Generator().manual_seed(10))
    return torch.einsum("kl,nlhw->nkhw", mixing, noise) + 3 * place + 5


def fitted(network: dict[str, Any]) -> FeatureVAE:
    model = build(network).eval()
    features = drawn(24)
    model.fit_whitening([features[:10], features[10:]])
    if model.position is not None:
        model.fit_position(model.whitening(features))
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# Whitening of channels


def rows(features: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return features.double().transpose(0, 1).flatten(1).numpy()


def test_whitened_features_are_uncorrelated_and_of_unit_variance_but_for_the_ridge() -> None:
    features, whitening = drawn(12), Whitening(CHANNELS)
    whitening.fit(features.split(5))
    spread = np.linalg.eigvalsh(np.corrcoef(rows(features)))
    found = np.cov(rows(whitening(features)), bias=True)
    np.testing.assert_allclose(found, np.diag(spread / (spread + RIDGE)), atol=1e-4)
    assert abs(rows(whitening(features)).mean(1)).max() < 1e-4


def test_whitening_is_applied_to_other_features() -> None:
    """f = W^T (x - mean) / std: its length is that in the metric of the correlation matrix plus its ridge."""
    features, other, whitening = drawn(12), drawn(3, seed=5), Whitening(CHANNELS)
    whitening.fit([features])
    data = rows(features)
    standard = (rows(other) - data.mean(1)[:, None]) / data.std(1)[:, None]
    metric = np.linalg.inv(np.corrcoef(data) + RIDGE * np.eye(CHANNELS))
    expected = np.einsum("kn,kl,ln->n", standard, metric, standard)
    np.testing.assert_allclose(np.square(rows(whitening(other))).sum(0), expected, rtol=1e-3)


def test_without_whitening_channels_are_standardised() -> None:
    features, whitening = drawn(6), Whitening(CHANNELS, whiten=False)
    whitening.fit(features.split(4))
    data = rows(features)
    expected = (data - data.mean(1)[:, None]) / data.std(1)[:, None]
    np.testing.assert_allclose(rows(whitening(features)), expected, atol=1e-4)


def test_the_moments_stand_far_offsets_and_any_batches() -> None:
    features = drawn(8).double() + 1e4
    a, b = Whitening(CHANNELS, whiten=False).double(), Whitening(CHANNELS, whiten=False).double()
    a.fit([features])
    b.fit(features.split(3))
    for name, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[name], value, rtol=1e-9, atol=0)
    np.testing.assert_allclose(1 / a.get_buffer("matrix").diagonal().numpy(), rows(features).std(1), rtol=1e-6)


def test_a_constant_channel_stays_finite() -> None:
    features, whitening = drawn(6), Whitening(CHANNELS)
    features[:, 3] = 7.25
    whitening.fit([features])
    assert bool(whitening(features).isfinite().all())
    assert bool(whitening(drawn(2, seed=4)).isfinite().all())


def test_fits_that_cannot_be_are_told() -> None:
    with pytest.raises(VaexError, match="at least 2 normal images, got 1"):
        Whitening(CHANNELS).fit([drawn(1)])
    with pytest.raises(VaexError, match="at least 2 normal images, got 0"):
        Whitening(CHANNELS).fit([])
    with pytest.raises(VaexError, match="not finite"):
        Whitening(CHANNELS).fit([drawn(3).index_fill(0, torch.tensor(1), torch.nan)])
    with pytest.raises(VaexError, match="at least 2 normal images, got 1"):
        PositionWhitening(CHANNELS, 8, rank=4).fit(drawn(1))


# Whitening at each position


@pytest.mark.parametrize("shrink", [1.0, 0.3])
def test_whitening_at_each_position_is_the_inverse_root_of_its_covariance(shrink: float) -> None:
    features, other = drawn(9, channels=6), drawn(2, seed=3, channels=6)
    whitening = PositionWhitening(6, 8, rank=6, shrink=shrink)
    assert torch.equal(whitening(other), other)
    whitening.fit(features)
    found = whitening(other)
    for i, j in [(0, 0), (3, 7), (7, 2)]:
        here = features[:, :, i, j].double().numpy()
        root = np.linalg.inv(sqrtm(np.cov(here.T) + shrink * np.eye(6)))
        expected = (other[:, :, i, j].double().numpy() - here.mean(0)) @ root
        np.testing.assert_allclose(found[:, :, i, j], expected, atol=1e-4)


def test_a_low_rank_keeps_the_strongest_directions() -> None:
    """Where all others share one variance, nothing is lost: sixteen images span fewer directions than that."""
    features = drawn(5, channels=12)  # at most 4 directions
    whole, low = PositionWhitening(12, 8, rank=12), PositionWhitening(12, 8, rank=4)
    whole.fit(features)
    low.fit(features.half().float())
    torch.testing.assert_close(low(features), whole(features), rtol=0.02, atol=0.02)
    lower = PositionWhitening(12, 8, rank=1)
    lower.fit(features)
    here = features[:, :, 2, 5].double()
    spread, vectors = np.linalg.eigh(np.cov(here.numpy().T))
    rest = spread[:-1].mean()
    root = (np.eye(12) - np.outer(vectors[:, -1], vectors[:, -1])) / np.sqrt(rest + 1)
    root += np.outer(vectors[:, -1], vectors[:, -1]) / np.sqrt(spread[-1] + 1)
    np.testing.assert_allclose(lower(features)[:, :, 2, 5], (here - here.mean(0)).numpy() @ root, atol=1e-3)


# The likelihood


def test_log_prob_is_that_of_normal_features() -> None:
    location, log_variance, features = drawn(2), torch.linspace(-1, 1, CHANNELS), drawn(2, seed=2)
    scale = (0.5 * log_variance).exp()[:, None, None].expand(CHANNELS, 8, 8)
    expected = Normal(location.double(), scale.double()).log_prob(features.double()).sum((1, 2, 3)).float()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(FeatureGaussian(location, log_variance).log_prob(features), expected)
    torch.testing.assert_close(FeatureGaussian(location, log_variance, features).log_prob(images), expected)
    read = FeatureGaussian(location, log_variance, read=lambda seen: features if seen is images else location)
    torch.testing.assert_close(read.log_prob(images), expected)
    with pytest.raises(VaexError, match=r"likelihood is of features \(40, 8, 8\), got \(2, 3, 32, 32\)"):
        FeatureGaussian(location, log_variance).log_prob(images)


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_the_objective_is_the_elbo_of_the_features(network: dict[str, Any], images: Tensor) -> None:
    model = fitted(network)
    output = model(images, sample=False)
    features = model.features(images)
    assert output.reconstruction.shape == features.shape == (2, CHANNELS, 8, 8)
    terms = ELBO()(images, output, 0)
    normal = Normal(output.reconstruction, 1.0)  # the log-variances start at 0
    torch.testing.assert_close(terms.parts["reconstruction"], -normal.log_prob(features).sum((1, 2, 3)).mean())
    posterior = Normal(output.posterior.mean, (0.5 * output.posterior.logvar).exp())
    kl = torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(terms.parts["kl"], kl)
    terms.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("network", [VECTOR, GRID])
def test_features_that_are_given_stand_for_the_images(network: dict[str, Any], images: Tensor) -> None:
    model = fitted(network)
    output, given = model(images), model(torch.zeros_like(images), features=model.features(images))
    torch.testing.assert_close(given.posterior.mean, output.posterior.mean)
    torch.testing.assert_close(given.likelihood.log_prob(images), output.likelihood.log_prob(images))
    decoded = model.decode(output.z)
    torch.testing.assert_close(decoded.log_prob(images), output.likelihood.log_prob(images))


# Networks


def test_a_vector_starts_at_the_mean_of_the_normal_features(images: Tensor) -> None:
    model, features = fitted(VECTOR), drawn(24)
    output = model(images)
    assert output.posterior.mean.shape == output.kl.shape == (2, 3)
    expected = model.whitening(features).mean(0).expand(2, -1, -1, -1)
    torch.testing.assert_close(output.reconstruction, expected, rtol=1e-4, atol=1e-4)
    assert isinstance(model, VAE)
    assert model.latents == 3


def test_a_grid_starts_at_its_features(images: Tensor) -> None:
    model = fitted(GRID)
    output = model(images)
    torch.testing.assert_close(output.posterior.mean, model.features(images))
    assert bool((output.posterior.logvar == -2).all())
    assert model.latents == 40
    assert build(GRID, latents=7)(images).posterior.mean.shape == (2, 7, 8, 8)


def test_the_kernel_is_what_a_cell_sees() -> None:
    for kernel in (1, 3, 5):
        features = drawn(1).requires_grad_()
        build(GRID, kernel=kernel).encoder.get_submodule("conv1")(features)[0, :, 4, 4].sum().backward()
        assert features.grad is not None
        assert int(features.grad[0].abs().sum(0).count_nonzero()) == kernel**2


def test_log_variances_stay_in_their_range(images: Tensor) -> None:
    for network, layer in ((VECTOR, "logvar"), (GRID, "logvar")):
        model = fitted(network)
        head = model.encoder.get_submodule(layer)
        assert isinstance(head, nn.Linear | nn.Conv2d)
        assert head.bias is not None
        for value, limit in ((1e3, 4.0), (-1e3, -8.0)):
            nn.init.constant_(head.bias, value)
            assert model.encode(images).logvar.unique().tolist() == [limit]


def test_kept_layers_come_with_their_graph(images: Tensor) -> None:
    output = fitted(VECTOR)(images, keep=("whitening", "conv2", "deconv1"))
    shapes = {name: tuple(value.shape) for name, value in output.activations.items()}
    assert shapes == {"whitening": (2, CHANNELS, 8, 8), "conv2": (2, 6, 4, 4), "deconv1": (2, 6, 2, 2)}


def test_only_what_is_trained_and_fitted_is_stored(images: Tensor) -> None:
    for network in (VECTOR, GRID):
        model, again = fitted(network), build(network).eval()
        stored = model.state_dict()
        assert [name for name in stored if name.startswith("backbone")] == ["backbone.fingerprint"]
        assert [model.ready, again.ready] == [True, False]
        again.load_state_dict(stored)
        assert [again.ready] == [True]
        torch.testing.assert_close(again(images).likelihood.log_prob(images), model(images).likelihood.log_prob(images))


def test_an_untrained_twin_keeps_the_statistics_of_the_data(images: Tensor) -> None:
    for network in (VECTOR, GRID):
        model, twin = fitted(network), build(network).eval()
        with torch.no_grad():
            for part in twin.encoder.parameters():
                part.add_(1)
        twin.load_state_dict(statistics_of(model), strict=False)
        torch.testing.assert_close(twin.features(images), model.features(images))
        assert not torch.equal(twin.encode(images).mean, model.encode(images).mean)
    assert statistics_of(build_model({"name": "conv", "shape": [1, 32, 32]})) == {}


def test_the_backbone_sees_an_image_once(images: Tensor) -> None:
    model = fitted(VECTOR)
    plain = model(images)
    model.remember()
    calls: list[int] = []
    model.backbone.network.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    for batch in (images, images.flip(0), images[:1]):
        with torch.inference_mode():
            model(batch)
    torch.testing.assert_close(model(images).posterior.mean, plain.posterior.mean)
    torch.testing.assert_close(model(model.raw_features(images)).posterior.mean, plain.posterior.mean)
    assert calls == [2]


def test_grey_data(images: Tensor) -> None:
    model = build(VECTOR, shape=[1, 40, 40])
    assert model(torch.rand(2, 1, 40, 40)).posterior.mean.shape == (2, 3)
    with pytest.raises(VaexError, match=r"images .* of 1x40x40 .*, got 3x32x32"):
        model(images)
    with pytest.raises(VaexError, match=r"images .* of 1x40x40 .*, got a tensor of shape"):
        model.features(images[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": [2, 32, 32]}, "grey or RGB images of at least 32 pixels, got 2x32x32"),
        ({"shape": [3, 16, 32]}, "grey or RGB images of at least 32 pixels, got 3x16x32"),
        ({"shape": None}, "needs network.shape"),
        ({"latents": 0}, "network.latents must be at least 1"),
        ({"grid": 6}, "network.grid must be a multiple of 4, got 6"),
        ({"widths": [8, 8]}, "network.widths must be three whole numbers"),
        ({"widths": [8, 0, 8]}, "network.widths must be three whole numbers"),
        ({"depth": 3}, "network 'feature_vae' has no option 'depth'"),
        ({"name": "feature_grid", "widths": [8, 8, 8]}, "network 'feature_grid' has no option 'widths'"),
        ({"name": "feature_vea"}, "did you mean 'feature_vae'"),
    ],
)
def test_bad_networks_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build(VECTOR, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "network.rank must be from 1 to 40"),
        ({"rank": 41}, "network.rank must be from 1 to 40"),
        ({"shrink": 0.0}, "network.shrink positive"),
        ({"hidden": 0}, "network.hidden and decoder_hidden must be at least 1"),
        ({"kernel": 4}, "network.kernel must be an odd number of cells, got 4"),
        ({"latents": 0}, "network.latents must be at least 1"),
    ],
)
def test_bad_grids_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build(GRID, **options)


def test_a_vector_has_no_positions_to_whiten() -> None:
    with pytest.raises(VaexError, match="choose network=feature_grid"):
        build(VECTOR).fit_position(drawn(3))


# Attention


@pytest.mark.parametrize("layer", [None, "encoder.conv2", "conv1", "whitening", "backbone.network.blocks.2"])
def test_attention_of_a_vector(layer: str | None, images: Tensor) -> None:
    model = fitted(VECTOR)
    maps = latent_attention(model, images, layer, rectify="none")
    assert maps.shape == (2, 3, 32, 32)
    assert bool(maps.abs().amax((2, 3)).gt(0).all())


@pytest.mark.parametrize("layer", [None, "conv1", "position", "whitening"])
def test_attention_of_a_grid(layer: str | None, images: Tensor) -> None:
    model = fitted(GRID)
    nn.init.normal_(model.encoder.mean.weight)  # at the start conv1 has no weight
    maps = latent_attention(model, images, layer, latents=[0, 3], rectify="none")
    assert maps.shape == (2, 2, 32, 32)
    assert bool(maps.abs().amax((2, 3)).gt(0).all())


def test_attention_of_the_kl_of_an_untrained_grid_is_the_mahalanobis_distance(images: Tensor) -> None:
    """mu = e, so the KL is |e|^2 / 2 plus a constant, and gradient times e is |e|^2 at each position."""
    model = fitted(GRID)
    maps = latent_attention(model, images, "position", method="hires_cam", target="total_kl", size="layer")
    torch.testing.assert_close(maps[:, 0], model.features(images).square().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("network", "layer"), [(VECTOR, "conv2"), (VECTOR, "whitening"), (GRID, "position")])
def test_attention_of_the_elbo_sees_the_features_as_constants(
    network: dict[str, Any], layer: str, images: Tensor
) -> None:
    model = fitted(network)
    for parameter in model.decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    found = latent_attention(model, images, layer, target="neg_elbo", method="hires_cam", rectify="none", size="layer")

    target = model.features(images).detach()
    output = model(images, keep=(layer,), features=None, sample=False)
    loss = output.kl.flatten(1).sum(1) - output.likelihood._replace(target=None).log_prob(target)
    activation = output.activations[layer]
    (gradient,) = torch.autograd.grad(loss.sum(), activation)
    torch.testing.assert_close(found[:, 0], (gradient * activation).sum(1).detach(), rtol=1e-4, atol=1e-3)


def test_attention_differentiates_through_a_feature_vae(images: Tensor) -> None:
    model = fitted(VECTOR)
    maps = latent_attention(model, images, "conv2", create_graph=True)
    maps.square().mean().backward()
    weight = model.encoder.get_submodule("conv1").weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    assert bool(weight.grad.abs().sum() > 0)


def test_minus_the_elbo_of_features_is_that_of_their_images(images: Tensor) -> None:
    """Raw features have the shape of whitened ones, and are what all that explains gives the model."""
    model = fitted(VECTOR)
    for parameter in model.decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    options: dict[str, Any] = {"target": "neg_elbo", "method": "hires_cam", "rectify": "none", "size": "layer"}
    found = latent_attention(model, model.raw_features(images), "conv2", **options)
    torch.testing.assert_close(found, latent_attention(model, images, "conv2", **options), rtol=1e-4, atol=1e-3)
