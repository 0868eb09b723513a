"""Scores of attention maps with options of their own, beside the maps that are shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.attention import latent_attention
from vaex.build import build_model
from vaex.calibrate import calibrated_with
from vaex.detectors import fit_detectors
from vaex.errors import VaexError
from vaex.explanation import explain_and_score, score_only
from vaex.exporting.parts import Request
from vaex.networks import VAE
from vaex.scores import score_named

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
OWN: dict[str, Any] = {"name": "attention", "label": "kl_conv2", "maps": {"target": "kl", "layer": "conv2"}}


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_own_maps_are_those_of_latent_attention_whatever_is_shown(model: VAE) -> None:
    seen = images(3)
    shown, found = explain_and_score(model, seen, "conv3", scores=[OWN, "attention"], target="mean")
    expected = latent_attention(model, seen, "conv2", target="kl").mean(1, keepdim=True)
    torch.testing.assert_close(found["kl_conv2"].score_map, expected)
    torch.testing.assert_close(found["attention"].score_map, shown.maps.mean(1, keepdim=True))
    assert not torch.allclose(expected, shown.score_map)
    torch.testing.assert_close(score_only(model, seen, "conv3", score=OWN).score_map, expected)


def test_maps_of_uncalibrated_codes_are_left_out(model: VAE) -> None:
    difference = {"name": "attention", "label": "difference", "maps": {"target": "normal_difference"}}
    assert set(explain_and_score(model, images(2), scores=[OWN, difference])[1]) == {"kl_conv2"}


def test_mean_maps_and_combinations_take_own_maps(model: VAE) -> None:
    mean_map = {"name": "mean_map", "of": OWN}
    both = {"name": "combination", "of": [OWN, "reconstruction"]}
    train, held_out = images(4), images(4, 1)
    found = fit_detectors(model, [mean_map, both], [train[:3], train[3:]], [held_out])
    expected = latent_attention(model, train, "conv2", target="kl").mean(1).mean(0)
    torch.testing.assert_close(found["mean_map"]["mean"][0], expected)
    with calibrated_with(model, {"detectors": found}):
        scored = explain_and_score(model, images(2, 2), scores=[mean_map, both])[1]
    torch.testing.assert_close(scored["mean_map"].score_map[1, 0], expected)
    assert scored["combination"].score_map.isfinite().all()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"targt": "kl"}, "Unknown attention option 'targt': did you mean 'target'"),
        ({"target": "kll"}, "did you mean 'kl'"),
        ({"method": "gradcam"}, "did you mean 'grad_cam'"),
        ({"size": "layer"}, "takes no size"),
        ("kl", "must be attention options by name"),
    ],
)
def test_wrong_options_are_told_at_once(maps: Any, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        score_named({"name": "attention", "maps": maps})


def test_own_maps_are_not_exported() -> None:
    with pytest.raises(VaexError, match=r"score=kl_conv2 runs the model again .* attention\.target="):
        Request("score", score=OWN)


def test_the_untrained_control_knows_nothing_of_the_weights(model: VAE) -> None:
    seen, control = images(3), {**OWN, "label": "control", "untrained": True}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shown, found = explain_and_score(model, seen, scores=[OWN, control])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.allclose(found["control"].score_map, found["kl_conv2"].score_map)
    other = build_model(NETWORK).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3).add_(0.1)
    torch.testing.assert_close(score_only(other, seen, score=control).score_map, found["control"].score_map)
    by_hand = build_model(NETWORK).eval()  # drawn as modules draw themselves, from the code to the image
    for place, module in enumerate(("logvar", "mean", "fc1", "conv3", "conv2", "conv1")):
        torch.manual_seed(len(list(by_hand.decoder.parameters())) // 2 + place)
        by_hand.encoder.get_submodule(module).reset_parameters()  # type: ignore[operator]
    expected = latent_attention(by_hand, seen, "conv2", target="kl").mean(1, keepdim=True)
    torch.testing.assert_close(found["control"].score_map, expected)
    assert shown.maps.shape == (3, 3, 32, 32)
    with pytest.raises(VaexError, match="untrained=true needs maps of its own"):
        score_named({"name": "attention", "untrained": True})
