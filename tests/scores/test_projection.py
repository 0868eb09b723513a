"""VAE-grad on a model small enough to walk by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.scores import Evidence, score_named


class Halves:
    """f(x) = x / 2, pixel by pixel."""

    def encode(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=images)

    def decode(self, z: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=z / 2)


def test_the_steps_are_those_of_the_paper() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    score = score_named({"name": "projection", "steps": 3, "rate": 0.7, "closeness": 0.1})
    found = score(Evidence(images, None, images / 2, None, model=Halves()))
    x = images.double().numpy()
    start = x.copy()
    for _ in range(3):
        gradient = 0.5 * x + 0.1 * np.sign(x - start)  # of (x / 2)^2 + .1 |x - start|
        x = np.clip(x - 0.7 * gradient * (x / 2) ** 2, 0, 1)
    np.testing.assert_allclose(found.score_map[:, 0], np.abs(start - x).sum(1), rtol=1e-4)
    np.testing.assert_allclose(found.score, np.abs(start - x).sum((1, 2, 3)), rtol=1e-4)


def test_it_works_without_graph_around_it() -> None:
    images = torch.rand(1, 1, 4, 4)
    with torch.inference_mode():
        found = score_named("projection")(Evidence(images, None, images, None, model=Halves()))
    assert float(found.score[0]) > 0
    assert not found.score_map.requires_grad


def test_bad_input_is_told() -> None:
    with pytest.raises(VaexError, match="needs a VAE of images with encode and decode"):
        score_named("projection")(Evidence(torch.rand(1, 1, 4, 4), None, None, None))
    with pytest.raises(VaexError, match="steps of score 'projection' must be at least 1"):
        score_named({"name": "projection", "steps": 0})
