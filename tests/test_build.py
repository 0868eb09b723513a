"""Networks and objectives from plain dicts; see test_build_checkpoints.py for those from files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vaex.build import build_model, build_objective, named
from vaex.checked import call_checked
from vaex.errors import VaexError
from vaex.networks.likelihoods import Gaussian
from vaex.objectives import ELBO, BetaVAE

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("network", "count"),
    [
        ({"name": "mnist", "latents": 32}, 6_621_440 + 6_594_753),
        ({"name": "mnist", "shape": [1, 28, 28], "latents": 32}, 6_621_440 + 6_594_753),
        ({"name": "factor_vae", "shape": [1, 64, 64], "latents": 10}, 249_172 + 248_833),
    ],
)
def test_published_networks(network: dict[str, Any], count: int) -> None:
    model = build_model(network)
    images = torch.rand(2, 1, *((28, 28) if network["name"] == "mnist" else (64, 64)))
    assert model(images).reconstruction.shape == images.shape
    assert parameters(model) == count
    assert model.shape == images.shape[1:]


def test_shape_decides_the_channels_of_both_sides() -> None:
    for name, size in (("factor_vae", 64), ("conv", 48)):
        model = build_model({"name": name, "shape": [3, size, size], "latents": 2})
        assert model(torch.rand(2, 3, size, size)).reconstruction.shape == (2, 3, size, size)
        assert model.latents == 2
        assert model.shape == (3, size, size)
    assert build_model({"name": "factor_vae", "channels": 2}).shape == (2, 64, 64)


def test_the_config_is_left_as_it_was() -> None:
    config = {**NETWORK, "likelihood": {"name": "gaussian", "scale": 0.5}}
    before = repr(config)
    model = build_model(config, {"name": "normal"})
    assert repr(config) == before
    assert isinstance(model(torch.rand(1, 1, 32, 32)).likelihood, Gaussian)


def test_objectives() -> None:
    assert type(build_objective({"name": "vae"})) is ELBO
    beta = build_objective({"name": "beta_vae", "beta": 6, "warmup": {"kind": "linear", "steps": 5}})
    assert isinstance(beta, BetaVAE)
    assert beta.beta == 6
    assert beta.warmup(1) == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cnv"}, "Unknown network 'cnv': did you mean 'conv'"),
        ({"name": None}, "Unknown network 'None'.*valid names are conv, factor_vae, .*mnist"),
        ({"latent": 3}, "network 'conv' has no option 'latent': did you mean 'latents'"),
        ({"likelihood": {"name": "bernouli"}}, "Unknown likelihood 'bernouli': did you mean 'bernoulli'"),
        ({"likelihood": {"scales": 1.0}}, r"network\.likelihood has no option 'scales': did you mean 'scale'"),
        ({"shape": None}, r"network=conv needs network.shape, \[channels, height, width\]"),
        ({"shape": [1, 32]}, r"needs network.shape, .*got \[1, 32\]"),
        ({"shape": [1, 32, 32.5]}, r"needs network.shape, .*got \[1, 32, 32\.5\]"),
        ({"shape": [0, 32, 32]}, r"needs network.shape, .*got \[0, 32, 32\]"),
        ({"shape": "132"}, "needs network.shape, .*got '132'"),
        ({"shape": [1, 32, 64]}, "square images of 32 to 256 pixels, got 1x32x64"),
        ({"latents": "ten"}, "network 'conv' needs a whole number for the option 'latents', got 'ten'"),
        ({"latents": True}, "network 'conv' needs a whole number for the option 'latents', got True"),
        ({"depth": 2.5}, "needs a whole number for the option 'depth', got 2.5"),
        ({"norm": 3}, "needs text for the option 'norm', got 3"),
        ({"likelihood": {"learned": "yes"}}, "needs true or false for the option 'learned', got 'yes'"),
        ({"likelihood": {"scale": "wide"}}, "needs a number for the option 'scale', got 'wide'"),
    ],
)
def test_bad_network_configs_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_model({**NETWORK, **change})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "mnist", "shape": [1, 64, 64]}, "network=mnist takes images of 1x28x28 only, got 1x64x64"),
        ({"name": "mnist", "shape": [3, 28, 28]}, "network=mnist takes images of 1x28x28 only, got 3x28x28"),
        ({"name": "factor_vae", "shape": [3, 32, 32]}, "takes images of Cx64x64 only, got 3x32x32"),
        ({"name": "conv"}, "network=conv needs network.shape"),
        ("conv", "The network must be a mapping such as {name: mnist}, got 'conv'"),
    ],
)
def test_images_that_a_network_does_not_take_are_told(network: Any, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_model(network)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "beta_vea"}, "Unknown objective 'beta_vea': did you mean 'beta_vae'"),
        ({"name": "vae", "freebits": 1.0}, "objective 'vae' has no option 'freebits': did you mean 'free_bits'"),
        ({"name": "beta_vae", "beta": "big"}, "objective 'beta_vae' needs a number for the option 'beta', got 'big'"),
        ({"name": "vae", "warmup": {"king": "linear"}}, r"objective\.warmup has no option 'king': did you mean 'kind'"),
        ({"name": "vae", "warmup": {"kind": "cyclic", "steps": 9}}, "did you mean 'cyclical'"),
    ],
)
def test_bad_objective_configs_are_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_objective(config)


def test_unknown_prior_is_told() -> None:
    with pytest.raises(VaexError, match="Unknown prior 'norml': did you mean 'normal'"):
        build_model(NETWORK, {"name": "norml"})


def test_call_checked_tells_what_is_missing_and_takes_what_python_takes() -> None:
    def function(count: int, *, rate: float = 0.5, name: str | None = None) -> tuple[int, float, str | None]:
        return count, rate, name

    assert call_checked("thing", function, {"count": np.int64(3), "rate": 1, "name": None}) == (3, 1, None)
    with pytest.raises(VaexError, match="thing needs the option 'count', which is not given"):
        call_checked("thing", function, {"rate": 0.1})
    with pytest.raises(VaexError, match="thing has no option 'zzz': it takes count, rate, name"):
        call_checked("thing", function, {"count": 1, "zzz": 1})


def test_named_takes_the_name_out() -> None:
    config = {"name": "a", "x": 1}
    assert named("letter", {"a": 5}, config) == (5, {"x": 1})
    assert config == {"name": "a", "x": 1}
