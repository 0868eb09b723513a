"""Images encoded once: which, by what, and what is left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vaex.coding import chosen_images, encoded, has_factors
from vaex.data import Sprites
from vaex.errors import VaexError
from vaex.modules import VAEModule

GRID = {"shape": 2, "scale": 3, "orientation": 1, "x": 4, "y": 5}
NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture(scope="module")
def data() -> Sprites:
    return Sprites(size=32, grid=GRID, val=8, test=8, batch_size=8)


@pytest.fixture(scope="module")
def vae() -> Any:
    return VAEModule(network=NETWORK).vae


def test_codes_are_posterior_means_in_the_order_of_the_grid(data: Sprites, vae: Any) -> None:
    table = encoded(vae, data, batch=50)
    batch = data.grid_set.__getitems__(list(range(120)))
    with torch.no_grad():
        expected = vae.eval().encode(batch["image"]).mean
    torch.testing.assert_close(table.codes, expected)
    assert torch.equal(table.factors, batch["factors"])
    assert table.names == ("shape", "scale", "x", "y")
    assert table.factors.shape == (120, 4)


def test_a_subset_is_drawn_by_the_seed(data: Sprites, vae: Any) -> None:
    whole = encoded(vae, data)
    for seed in (0, 1):
        positions = chosen_images(120, 30, seed)
        part = encoded(vae, data, 30, seed)
        torch.testing.assert_close(part.codes, whole.codes[positions])
        assert torch.equal(part.factors, whole.factors[positions])
    assert len(set(chosen_images(120, 30, 0).tolist())) == 30
    assert chosen_images(120, 30, 0).tolist() != chosen_images(120, 30, 1).tolist()
    assert np.array_equal(chosen_images(120, 500), np.arange(120))


def test_the_model_is_left_as_it_was(data: Sprites, vae: Any) -> None:
    vae.train()
    vae.decoder.eval()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    stream = torch.random.get_rng_state()
    with torch.inference_mode():
        encoded(vae, data, 40)
    assert vae.encoder.training
    assert not vae.decoder.training
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in before.items())
    assert torch.equal(stream, torch.random.get_rng_state())


def test_what_cannot_be_encoded_is_told(data: Sprites, vae: Any) -> None:
    assert has_factors(data)
    assert not has_factors(object())
    with pytest.raises(VaexError, match="object states no factors"):
        encoded(vae, object())
    for wrong in (1, 0, -5, True, 2.5):
        with pytest.raises(VaexError, match="at least 2 images, or null for all"):
            encoded(vae, data, wrong)  # type: ignore[arg-type]
    with pytest.raises(VaexError, match="batch=0"):
        encoded(vae, data, batch=0)
