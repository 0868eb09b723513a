"""Stability against captum and a closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness import instability


def test_linear_maps_move_as_the_noise_does(images: Tensor) -> None:
    seen: list[Tensor] = []

    def explain(given: Tensor) -> Tensor:
        seen.append(given)
        return torch.cat([given[:, :1], -3 * given[:, 1:]], 1)

    found = instability(explain, images, radius=0.1, samples=3)
    assert torch.equal(seen[0], images)
    assert len(seen) == 4
    changes = []
    for noisy in seen[1:]:
        noise = noisy - images
        assert 0.09 < float(noise.abs().max()) <= 0.1 + 1e-6
        torch.testing.assert_close(noise[0], noise[1], atol=1e-6, rtol=0)  # no map depends on its neighbours
        changes.append(noise.flatten(2).norm(dim=2) / images.flatten(2).norm(dim=2))
    torch.testing.assert_close(found.mean.float(), torch.stack(changes).mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.largest.float(), torch.stack(changes).amax(0), atol=1e-5, rtol=1e-4)


def test_largest_change_is_captums_sensitivity(images: Tensor) -> None:
    metrics = pytest.importorskip("captum.metrics")
    seen: list[Tensor] = []

    def explain(given: Tensor) -> Tensor:
        seen.append(given)
        return (given.square() + given.flip(3)).sum(1, keepdim=True)

    found = instability(explain, images, samples=3).largest[:, 0]
    noises = [noisy[0] - images[0] for noisy in seen[1:]]

    def perturbed(given: Tensor, radius: float = 0.0) -> Tensor:
        return given + torch.stack(noises[: len(given) // 3]).repeat(3, 1, 1, 1)

    def asked(given: Tensor | tuple[Tensor]) -> Any:  # captum passes the images as a tuple, the noisy ones as they are
        return explain(given) if isinstance(given, Tensor) else (explain(given[0]),)

    expected = metrics.sensitivity_max(asked, images, perturb_func=perturbed, n_perturb_samples=3)
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-3)


def test_edges(images: Tensor) -> None:
    steady = instability(torch.ones_like, images)
    assert steady.mean.tolist() == [[0.0, 0.0]] * 3
    assert bool(instability(torch.zeros_like, images).mean.isnan().all())
    with pytest.raises(VaexError, match="samples >= 1"):
        instability(lambda given: given, images, samples=0)
    with pytest.raises(VaexError, match="radius above 0"):
        instability(lambda given: given, images, radius=0.0)
