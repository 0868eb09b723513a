"""Measures of maps against loops and closed forms, and MapMetrics merged over two processes."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pairs import run_pair
from vaex.errors import VaexError
from vaex.metrics import overlap
from vaex.metrics.maps import (
    MapMetrics,
    energy_inside,
    map_entropy,
    mean_overlap,
    pointing_game,
)
from vaex.metrics.overlap import overlap_ratio


def _case(count: int = 6, targets: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Maps with ties, an empty map and an empty mask; KL with one collapsed latent."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-2, 4, (count, targets, 5, 4), generator=generator).float()
    maps[0, 1] = 0
    maps[1, 2] = -1
    mask = (torch.rand(count, 1, 5, 4, generator=generator) > 0.6).float()
    mask[2] = 0
    kl = torch.rand(count, targets, generator=generator) + 0.1
    kl[:, 1] = 0.001
    return maps, kl, mask


def test_pointing_game_and_energy_equal_loops() -> None:
    maps, _, mask = _case()
    for b in range(maps.shape[0]):
        truth = mask[b, 0].flatten().tolist()
        for t in range(maps.shape[1]):
            values = maps[b, t].flatten().tolist()
            best = [i for i, value in enumerate(values) if value == max(values)]
            hit = sum(truth[i] for i in best) / len(best) if max(values) > 0 else 0.0
            assert pointing_game(maps, mask)[b, t].item() == pytest.approx(hit)
            mass = sum(max(value, 0) for value in values)
            inside = sum(max(value, 0) * m for value, m in zip(values, truth, strict=True))
            assert energy_inside(maps, mask)[b, t].item() == pytest.approx(inside / mass if mass else 0.0)


def test_pointing_game_cannot_be_won_without_pointing() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :1] = 1  # a quarter
    for value, expected in ((0.0, 0.0), (-1.0, 0.0), (2.0, 0.25)):  # empty, negative, flat: the last earns chance
        assert pointing_game(torch.full((1, 1, 4, 4), value), mask).item() == expected
    assert energy_inside(torch.zeros(1, 1, 4, 4), mask).item() == 0
    assert energy_inside(torch.ones(1, 1, 4, 4), mask).item() == 0.25


def test_entropy() -> None:
    point = torch.zeros(1, 1, 4, 4)
    point[0, 0, 2, 1] = 7
    two = point.clone()
    two[0, 0, 0, 0] = 7
    maps = torch.cat([point, two, torch.full((1, 1, 4, 4), 1e-30), torch.zeros(1, 1, 4, 4), point - 1e-3], dim=1)
    assert map_entropy(maps)[0].tolist() == pytest.approx([0, math.log(2) / math.log(16), 1, 1, 0], abs=1e-6)
    maps = _case()[0]
    for b in range(maps.shape[0]):
        for t in range(maps.shape[1]):
            values = [max(value, 0) for value in maps[b, t].flatten().tolist()]
            parts = [value / sum(values) for value in values if value]
            expected = -sum(p * math.log(p) for p in parts) / math.log(20) if parts else 1.0
            assert map_entropy(maps)[b, t].item() == pytest.approx(expected, abs=1e-6)


def test_measures_do_not_depend_on_scale() -> None:
    maps, _, mask = _case()
    for scale in (1e-30, 1e30):
        assert torch.allclose(map_entropy(maps * scale), map_entropy(maps), atol=1e-5)
        assert torch.allclose(energy_inside(maps * scale, mask), energy_inside(maps, mask), atol=1e-5)
        assert torch.equal(pointing_game(maps * scale, mask), pointing_game(maps, mask))
        assert torch.allclose(mean_overlap(maps * scale), mean_overlap(maps), atol=1e-5)


def test_nan_stays_visible() -> None:
    maps, _, mask = _case()
    maps[3, 1, 0, 0] = torch.nan
    for values in (pointing_game(maps, mask), energy_inside(maps, mask), map_entropy(maps)):
        assert values.isnan().nonzero().tolist() == [[3, 1]]


def _expected(maps: Tensor, kl: Tensor, mask: Tensor) -> dict[str, float]:
    shown = [b for b in range(len(maps)) if mask[b].sum() > 0]
    active = [d for d in range(kl.shape[1]) if kl[:, d].mean() > 0.01]
    chosen = maps[:, active]
    filled = chosen.clamp(min=0).sum((2, 3)) > 0
    pairs = [
        overlap_ratio(chosen[b : b + 1, i], chosen[b : b + 1, j]).item()
        for b, i, j in product(range(len(maps)), range(len(active)), range(len(active)))
        if i < j and filled[b, i] and filled[b, j]
    ]
    return {
        "empty": 1 - filled.float().mean().item(),
        "overlap_filled": sum(pairs) / len(pairs),
        "entropy": map_entropy(maps).mean().item(),
        "overlap": mean_overlap(maps[:, active]).mean().item(),
        "active_latents": float(len(active)),
        "pointing_game": pointing_game(maps[shown], mask[shown]).mean().item(),
        "energy_inside": energy_inside(maps[shown], mask[shown]).mean().item(),
    }


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


@pytest.mark.parametrize("chunk", [1, 200, 1 << 20])
@pytest.mark.parametrize("sizes", [[6], [1, 2, 3]])
def test_metric_averages_over_images(sizes: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "CHUNK_ELEMENTS", chunk)
    maps, kl, mask = _case()
    metric, stepwise = MapMetrics(), MapMetrics()
    for _ in range(2):
        for m, k, t in zip(maps.split(sizes), kl.split(sizes), mask.split(sizes), strict=True):
            metric.update(m, kl=k, mask=t)
            stepwise(m, kl=k, mask=t)
        expected = _expected(maps, kl, mask)
        assert expected["active_latents"] == 3  # so that the choice of pairs is seen
        assert expected["overlap"] != pytest.approx(mean_overlap(maps).mean().item(), abs=1e-3)
        assert _floats(metric.compute()) == pytest.approx(expected, abs=1e-6)
        assert _floats(stepwise.compute()) == pytest.approx(expected, abs=1e-6)
        metric.reset()
        stepwise.reset()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metric_returns_what_the_data_allowed() -> None:
    maps, kl, mask = _case()
    metric = MapMetrics()
    assert metric.compute() == {}
    metric.reset()
    metric.update(maps)
    assert set(metric.compute()) == {"empty", "entropy", "overlap", "overlap_filled"}
    assert metric.compute()["overlap"].item() == pytest.approx(mean_overlap(maps).mean().item(), abs=1e-6)
    metric.reset()
    metric.update(maps[:, :1], mask=torch.zeros_like(mask))
    assert set(metric.compute()) == {"empty", "entropy"}
    metric.reset()
    metric.update(maps[:, :2], kl=kl)  # maps of some latents: all their pairs count
    assert metric.compute()["active_latents"].item() == 3
    assert metric.compute()["overlap"].item() == pytest.approx(mean_overlap(maps[:, :2]).mean().item(), abs=1e-6)


@pytest.mark.parametrize("active", [[], [2]])
def test_overlap_of_all_stands_in_where_fewer_than_two_are_active(active: list[int]) -> None:
    maps, kl, _ = _case()
    kl[:, [d for d in range(4) if d not in active]] = 0.001
    metric = MapMetrics()
    metric.update(maps, kl=kl)
    found = metric.compute()
    assert found["active_latents"].item() == len(active)
    assert found["overlap"].item() == pytest.approx(mean_overlap(maps).mean().item(), abs=1e-6)


def test_empty_maps_are_told_from_maps_that_lie_apart() -> None:
    apart, empty = torch.zeros(3, 2, 4, 4), torch.full((3, 2, 4, 4), -1.0)
    apart[:, 0, :2], apart[:, 1, 2:] = 1, 2
    found = {}
    for name, maps in (("apart", apart), ("empty", empty), ("both", torch.cat([apart, empty]))):
        metric = MapMetrics()
        metric.update(maps)
        found[name] = _floats(metric.compute())
        assert found[name]["overlap"] == 0
    assert [found[name]["empty"] for name in ("apart", "empty", "both")] == [0, 1, 0.5]
    assert found["apart"]["overlap_filled"] == found["both"]["overlap_filled"] == 0
    assert "overlap_filled" not in found["empty"]


def test_bad_input() -> None:
    maps, kl, mask = _case()
    metric = MapMetrics()
    broken = maps.clone()
    broken[0, 1, 2, 2], broken[4, 0] = torch.nan, torch.inf
    with pytest.raises(VaexError, match="2 of 24 attention maps hold NaN or infinity"):
        metric.update(broken)
    with pytest.raises(VaexError, match=r"mask must be .* = \(6, 1, 5, 4\)"):
        metric.update(maps, mask=mask[:, 0])
    with pytest.raises(VaexError, match=r"shape \(6, D\)"):
        metric.update(maps, kl=kl[:2])
    assert metric.images == 0  # what is refused leaves no trace
    metric.update(maps)
    with pytest.raises(VaexError, match="4 maps per image before and 2 now"):
        metric.update(maps[:, :2])
    with pytest.raises(VaexError, match="more than one pixel"):
        map_entropy(torch.rand(1, 1, 1, 1))
    with pytest.raises(VaexError, match="at least 0 nats"):
        MapMetrics(threshold=-1)


SHARES = [[[0, 1, 4, 5], [2, 3]], [[], [0, 1, 2, 3, 4, 5]]]
"""Which images each of two processes sees: unevenly many, or none."""


def _one_process(rank: int, folder: str) -> None:
    maps, kl, mask = _case()
    metric, results = MapMetrics().to("cpu"), []
    for shares in SHARES:
        for b in shares[rank]:
            metric.update(maps[b : b + 1], kl=kl[b : b + 1], mask=mask[b : b + 1])
        results.append(metric.compute())
        assert metric.images == len(shares[rank])  # each process has its own sums again
        metric.reset()
    torch.save(results, Path(folder) / f"{rank}.pt")


def test_two_processes_merge(tmp_path: Path) -> None:
    run_pair(_one_process, str(tmp_path))
    for rank in range(2):
        for result in torch.load(tmp_path / f"{rank}.pt"):
            assert _floats(result) == pytest.approx(_expected(*_case()), abs=1e-6)
