"""overlap_ratio and mean_overlap against loops over pixels and pairs, closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics import overlap
from vaex.metrics.overlap import mean_overlap, overlap_ratio, pairwise_overlap


def _maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(min=0)


def _by_loop(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    total = sum(x + y for x, y in pairs)
    return 2 * sum(min(x, y) for x, y in pairs) / total if total else 0.0


def test_equals_a_loop_over_pixels() -> None:
    a, b = _maps(3, 5, 4), _maps(3, 5, 4, seed=1)
    expected = [_by_loop(a[i], b[i]) for i in range(3)]
    assert overlap_ratio(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert overlap_ratio(a.flatten(1), b.flatten(1)).tolist() == pytest.approx(expected, abs=1e-12)
    assert overlap_ratio(a.half(), b.half()).tolist() == pytest.approx(expected, abs=1e-3)


def test_closed_forms() -> None:
    left, right = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    left[:, :, :2], right[:, :, 2:] = 3.0, 5.0
    both = torch.cat([left, right])
    assert overlap_ratio(left, right).item() == 0
    assert overlap_ratio(both, both).tolist() == [1, 1]
    assert overlap_ratio(left, 3 * left).item() == pytest.approx(2 * 1 / (1 + 3))
    assert overlap_ratio(left, torch.zeros_like(left)).item() == 0
    assert overlap_ratio(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)).tolist() == [0, 0]
    assert overlap_ratio(left - 7 * right, left).item() == 1  # negative values say nothing


def test_half_precision_does_not_overflow() -> None:
    big = torch.full((1, 64, 64), 1000.0, dtype=torch.float16)  # sums to 4e6, above 65504
    assert overlap_ratio(big, big / 2).item() == pytest.approx(2 / 3, abs=1e-6)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)  # no two values alike: at a tie the minimum has a kink
    a, b = (torch.rand(2, 3, 3, generator=generator, dtype=torch.float64).add(0.1).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(overlap_ratio, (a, b))
    assert torch.autograd.gradgradcheck(overlap_ratio, (a, b))


@pytest.mark.parametrize("tiny", [0.0, 1e-44])
def test_gradient_is_finite_and_zero_where_both_are_empty(tiny: float) -> None:
    a = torch.full((2, 3, 3), tiny).requires_grad_()
    b = torch.stack([torch.zeros(3, 3), torch.ones(3, 3)])
    (gradient,) = torch.autograd.grad(overlap_ratio(a, b).sum(), a, create_graph=True)
    assert gradient[0].abs().max() == 0
    assert torch.allclose(gradient[1], torch.full((3, 3), 2 / 9), atol=1e-6)  # d/da 2 a / (a + 1) per pixel
    (second,) = torch.autograd.grad(gradient.square().sum(), a)
    assert second.isfinite().all()


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_mean_overlap_equals_a_loop_over_pairs(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "CHUNK_ELEMENTS", chunk)
    maps = _maps(3, 5, 6, 4)
    maps[1, 2] = 0
    expected = [
        sum(_by_loop(image[i], image[j]) for i in range(5) for j in range(i + 1, 5)) / 10 for image in maps.unbind()
    ]
    assert mean_overlap(maps).tolist() == pytest.approx(expected, abs=1e-12)
    pairs = pairwise_overlap(maps)
    assert torch.equal(pairs, pairs.mT)
    assert pairs.diagonal(dim1=1, dim2=2).flatten().tolist() == [0.0 if i == 7 else 1.0 for i in range(15)]


def test_mean_overlap_closed_forms() -> None:
    image = _maps(2, 1, 4, 4)
    assert mean_overlap(image.expand(2, 6, 4, 4)).tolist() == pytest.approx([1, 1], abs=1e-12)
    disjoint = torch.eye(16).reshape(1, 16, 4, 4)
    assert mean_overlap(disjoint).item() == 0
    assert mean_overlap(torch.zeros(1, 3, 4, 4)).item() == 0
    assert mean_overlap(image).isnan().all()  # one latent makes no pair


def test_nan_stays_visible() -> None:
    maps = _maps(2, 3, 4, 4)
    maps[1, 0, 0, 0] = torch.nan
    assert mean_overlap(maps).isnan().tolist() == [False, True]


def test_bad_input() -> None:
    with pytest.raises(VaexError, match=r"\(2, 4, 4\) and \(2, 3, 4\)"):
        overlap_ratio(torch.rand(2, 4, 4), torch.rand(2, 3, 4))
    with pytest.raises(VaexError, match="one shape"):
        overlap_ratio(torch.rand(2), torch.rand(2))
    with pytest.raises(VaexError, match=r"Maps must be \(B, T, H, W\)"):
        mean_overlap(torch.rand(2, 4, 4))
