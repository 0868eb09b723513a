"""Factor-grounded pointing against loops, hand-made masks and an analysis of variance written out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.pointing import (
    FactorPointing,
    changed_pixels,
    energy_in_masks,
    explained_variance,
    match_factors,
    pointing_hits,
)


def _case(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Signed maps with ties and an empty one; a mask for each, one of them empty."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-3, 4, (5, 3, 4, 6), generator=generator).float()
    maps[1, 2] = 0
    masks = (torch.rand(5, 3, 4, 6, generator=generator) > 0.6).float()
    masks[3, 0] = 0
    return maps, masks


def _loops(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    hits, energy = torch.zeros(maps.shape[:2]), torch.zeros(maps.shape[:2])
    for b in range(maps.shape[0]):
        for t in range(maps.shape[1]):
            sizes = [abs(value) for value in maps[b, t].flatten().tolist()]
            truth = masks[b, t].flatten().tolist()
            if max(sizes) > 0:
                best = [i for i, size in enumerate(sizes) if size == max(sizes)]
                hits[b, t] = sum(truth[i] for i in best) / len(best)
                energy[b, t] = sum(size for size, inside in zip(sizes, truth, strict=True) if inside) / sum(sizes)
    return hits, energy


def test_measures_equal_loops_over_every_map_and_its_own_mask() -> None:
    maps, masks = _case()
    hits, energy = _loops(maps, masks)
    torch.testing.assert_close(pointing_hits(maps, masks), hits)
    torch.testing.assert_close(energy_in_masks(maps, masks), energy)
    assert len(set(hits.flatten().tolist())) > 3


def test_evidence_against_counts_like_evidence_for() -> None:
    maps, masks = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    maps[0, :, 0, 0], maps[0, :, 1, 1] = -3.0, 1.0
    masks[0, 0, 0, 0] = 1  # the larger, negative one
    masks[0, 1, 1, 1] = 1
    assert pointing_hits(maps, masks).tolist() == [[1.0, 0.0]]
    assert energy_in_masks(maps, masks).tolist() == [[0.75, 0.25]]


def test_a_uniform_map_earns_the_share_of_the_mask_in_both() -> None:
    _, masks = _case()
    share = masks.mean((2, 3))
    torch.testing.assert_close(pointing_hits(torch.ones_like(masks), masks), share)
    torch.testing.assert_close(energy_in_masks(torch.ones_like(masks), masks), share)


def test_metric_averages_the_images_that_have_a_mask_latent_by_latent() -> None:
    maps, masks = _case()
    metric = FactorPointing(3)
    metric.update(maps[:2], masks[:2])
    metric.update(maps[2:], masks[2:])
    found = metric.compute()
    hits, energy = _loops(maps, masks)
    for latent in range(3):
        shown = [b for b in range(5) if masks[b, latent].any()]
        assert len(shown) == (4 if latent == 0 else 5)
        for name, values in (("pointing_game", hits), ("energy_inside", energy), ("chance", masks.mean((2, 3)))):
            expected = sum(float(values[b, latent]) for b in shown) / len(shown)
            assert float(found[name][latent]) == pytest.approx(expected, abs=1e-6)


def test_a_latent_without_any_mask_is_nan_and_not_zero() -> None:
    metric = FactorPointing(2)
    masks = torch.zeros(2, 2, 3, 3)
    masks[:, 1, 0, 0] = 1
    metric.update(torch.ones(2, 2, 3, 3), masks)
    assert math.isnan(metric.compute()["energy_inside"][0])
    assert float(metric.compute()["energy_inside"][1]) == pytest.approx(1 / 9)


def test_explained_variance_is_the_adjusted_r2_of_a_one_way_analysis() -> None:
    generator = torch.Generator().manual_seed(1)
    factors = torch.stack([torch.randint(3, (90,), generator=generator), torch.randint(7, (90,), generator=generator)])
    codes = torch.randn(90, 2, generator=generator)
    codes[:, 0] += 1.5 * (factors[0] == 1)  # not monotone in the class
    found = explained_variance(codes, factors.T)
    for d in range(2):
        for f, classes in ((0, 3), (1, 7)):
            groups = [codes[factors[f] == c, d].double().numpy() for c in range(classes)]
            between = float(stats.f_oneway(*groups).statistic)  # F = (between / (k-1)) / (within / (n-k))
            share = between * (classes - 1) / (between * (classes - 1) + 90 - classes)
            adjusted = 1 - (1 - share) * 89 / (90 - classes)
            assert float(found[d, f]) == pytest.approx(max(0.0, adjusted), abs=1e-6)
    assert float(found[0, 0]) > 0.2  # and not clamped


def test_each_latent_is_matched_to_what_moves_it() -> None:
    factors = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(2))
    circle = torch.sin(2 * math.pi * factors[:, 1] / 5)  # a circular factor has no order
    codes = torch.stack([factors[:, 0] * 2.0, circle, 0.3 * circle + factors[:, 2], torch.full((40,), 7.3)], 1)
    matching = match_factors(codes, factors)
    assert matching.factor[:3].tolist() == [0, 1, 2]
    torch.testing.assert_close(matching.strength[:2], torch.ones(2, dtype=torch.float64))
    variances = (0.09 * circle.var(correction=0).item(), 0.25)
    assert float(matching.strength[2]) == pytest.approx(variances[1] / sum(variances), abs=0.03)
    assert float(matching.strength[3]) == 0  # a constant is explained by nothing


def test_changed_pixels_look_at_every_channel() -> None:
    before = torch.zeros(2, 3, 2, 2)
    after = before.clone()
    after[0, 2, 0, 1] = 0.5
    after[1, 0, 1, 1] = -1
    expected = torch.zeros(2, 2, 2, dtype=torch.bool)
    expected[0, 0, 1] = expected[1, 1, 1] = True
    assert torch.equal(changed_pixels(before, after), expected)


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    maps, masks = _case()
    with pytest.raises(VaexError, match="mask of its own"):
        pointing_hits(maps, masks[:, :1])
    with pytest.raises(VaexError, match="measures 2 latents, got maps of 3"):
        FactorPointing(2).update(maps, masks)
    with pytest.raises(VaexError, match="NaN"):
        FactorPointing(3).update(torch.full_like(maps, math.nan), masks)
    with pytest.raises(VaexError, match="of one N"):
        explained_variance(torch.zeros(4, 2), torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(VaexError, match="4 classes among 4 images"):
        explained_variance(torch.zeros(4, 2), torch.arange(4)[:, None])
    with pytest.raises(VaexError, match="one shape"):
        changed_pixels(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))
