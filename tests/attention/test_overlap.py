"""The overlap of two maps, as losses and users import it: Eq. 5 written as loops, its ends and its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.attention import latent_attention, overlap_ratio
from vaex.errors import VaexError


def test_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 4, 5, generator=generator), torch.rand(3, 4, 5, generator=generator)
    for image, ratio in enumerate(overlap_ratio(a, b).tolist()):
        pairs = list(zip(a[image].flatten().tolist(), b[image].flatten().tolist(), strict=True))
        assert ratio == pytest.approx(2 * sum(min(p) for p in pairs) / sum(p + q for p, q in pairs), rel=1e-6)


def test_ends() -> None:
    a = torch.zeros(4, 2, 2)
    b = torch.zeros(4, 2, 2)
    a[0, 0, 0], b[0, 0, 0] = 3, 3  # the same
    a[1, 0, 0], b[1, 1, 1] = 3, 3  # apart
    a[2, 0, 0] = 3  # one empty; the last pair is empty both
    assert overlap_ratio(a, b).tolist() == [1, 0, 0, 0]


def test_maps_of_two_latents_and_their_gradient(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    maps = latent_attention(model, x, "relu2", rectify="abs", create_graph=True)
    ratio = overlap_ratio(maps[:, 0], maps[:, 1])
    assert ratio.shape == (4,)
    assert bool(((ratio > 0) & (ratio < 1)).all())
    ratio.sum().backward()
    assert float(model.encoder.conv1.weight.grad.abs().sum()) > 0


def test_gradient_by_finite_differences() -> None:
    torch.manual_seed(0)
    a, b = (torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(overlap_ratio, (a, b))


def test_shapes_must_agree() -> None:
    with pytest.raises(VaexError, match="must have one shape"):
        overlap_ratio(torch.rand(1, 3, 3), torch.rand(1, 3, 4))
