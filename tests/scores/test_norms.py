"""Lengths of codes and features at each cell, by numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vaex.build import build_model
from vaex.errors import VaexError
from vaex.explanation import evidence_of, explain_and_score
from vaex.scores import Evidence, score_images

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
VALUES = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "field"), [("synthetic_metric", "grid"), ("feature_norm", "features")])
def test_the_map_is_the_root_mean_square(name: str, field: str) -> None:
    parts: dict[str, Any] = {field: VALUES}
    given = Evidence(IMAGES, None, None, None)._replace(**parts)
    found = score_images({"name": name, "sigma": 0.0}, given)
    expected = np.linalg.norm(VALUES.numpy(), axis=1, keepdims=True) / np.sqrt(5)
    np.testing.assert_allclose(found.score_map, expected, rtol=1e-5)
    np.testing.assert_allclose(found.score, expected.max((1, 2, 3)), rtol=1e-5)


def test_models_without_them_are_told() -> None:
    given = Evidence(IMAGES, None, None, None)
    with pytest.raises(VaexError, match="reads a latent grid, which this model has not"):
        score_images("synthetic_metric", given)
    with pytest.raises(VaexError, match="train a feature VAE"):
        score_images("feature_norm", given)


def test_a_latent_grid_states_its_means() -> None:
    network = {"name": "feature_grid", "shape": [1, 32, 32], "blocks": [0], "size": 32, "grid": 8, "rank": 4}
    vae = build_model({**network, "latents": 6, "hidden": 5, "decoder_hidden": 6}).eval()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    found = evidence_of(vae, images, reads=("grid",))[0].grid
    torch.testing.assert_close(found, vae(images).posterior.mean)
    _, others = explain_and_score(vae, images, "input", scores=["synthetic_metric", "feature_norm"])
    assert set(others) == {"synthetic_metric", "feature_norm"}
    vector = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "depth": 2}).eval()
    assert evidence_of(vector, images, reads=("grid",))[0].grid is None
    assert explain_and_score(vector, images, scores=["synthetic_metric"])[1] == {}
