"""The sketch keeps its promises for any scores in any order, and measures from it stay within the stated bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from vaex.metrics import LocalizationMetrics, sketch
from vaex.metrics.ordering import Keys, to_keys
from vaex.metrics.sketch import ALL_SCORES, DEPTH, PARTS, Nodes, Pixels, compressed, joined, no_nodes

NORMAL, ONE, OTHER = -100, 7, 9
"""Parts: normal images, two kinds of defects."""


def _block(generator: np.random.Generator, part: int, place: float, spread: float, count: int) -> Pixels:
    def keys(number: int) -> Keys:
        values = place + spread * generator.standard_cauchy(number)
        return np.sort(to_keys(values.astype(np.float32)))

    if part < 0:
        return Pixels(part, keys(count), keys(0), np.zeros((0, 2)))
    found = max(1, count // 3)
    weights = 1 / generator.integers(1, 50, (found, 2))
    return Pixels(part, keys(count - found), keys(found), weights)


def _stream(seed: int, kinds: list[str], share: float) -> tuple[Nodes, list[Pixels]]:
    """Return the sketch and the pixels of blocks whose places jump as the ``kinds`` say."""
    generator, nodes, seen = np.random.default_rng(seed), no_nodes(), []
    for number, kind in enumerate(kinds):
        place = {"same": 0.0, "up": 3.0 * number, "down": -3.0 * number, "far": 1e6 * number, "tiny": 1e-30}[kind]
        blocks = [_block(generator, part, place, 1e-30 if kind == "tiny" else 1.0, 300) for part in (NORMAL, ONE)]
        if number % 2:
            blocks.append(_block(generator, OTHER, place, 0.1, 40))
        seen += blocks
        if number % 3 == 2:  # as when another process is merged
            nodes = joined([nodes, compressed(blocks, no_nodes(), share)])
        else:
            nodes = compressed(blocks, nodes, share)
    return nodes, seen


def _seen(pixels: list[Pixels], part: int) -> tuple[Keys, Keys, NDArray[np.float64]]:
    own = [one for one in pixels if one.part == part]
    return (
        np.concatenate([one.normal for one in own]),
        np.concatenate([one.anomalous for one in own]),
        np.concatenate([one.weights for one in own]),
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(st.sampled_from(["same", "up", "down", "far", "tiny"]), min_size=2, max_size=6),
    share=st.sampled_from([0.003, 0.02, 0.1]),
)
def test_no_rank_is_less_certain_than_promised(seed: int, kinds: list[str], share: float) -> None:
    nodes, seen = _stream(seed, kinds, share)
    assert set(np.log2(nodes.width) % math.log2(PARTS)) == {0}
    assert not (nodes.low % nodes.width).any()  # so that two intervals are apart or one holds the other
    keys = np.unique(np.concatenate([keys for one in seen for keys in (one.normal, one.anomalous)])).astype(np.int64)
    certain, uncertain = {}, {}
    places, place = np.unique(np.stack([nodes.low, nodes.width]), axis=1, return_inverse=True)
    ends = (places[0] + places[1])[places[1] > 1]
    inside, above = {}, {}
    for part in {one.part for one in seen}:
        normal, anomalous, weights = _seen(seen, part)
        own = nodes.part == part
        low, high = nodes.low[own], nodes.low[own] + nodes.width[own] - 1
        totals = np.array([len(normal), len(anomalous), *weights.sum(0)])
        np.testing.assert_allclose(nodes.mass[own].sum(0), totals, rtol=1e-9)  # nothing is lost
        over = (low < keys[:, None]) & (keys[:, None] <= high)  # key by interval: may lie above or below
        surely = (low >= keys[:, None]) @ nodes.mass[own]
        doubt = over @ nodes.mass[own]
        exact = np.stack([(normal >= keys[:, None]).sum(1), (anomalous >= keys[:, None]).sum(1)], 1)
        assert (surely[:, :2] <= exact + 1e-6).all()
        assert (exact <= surely[:, :2] + doubt[:, :2] + 1e-6).all()
        heavier = (anomalous >= keys[:, None]) @ weights
        assert (surely[:, 2:] <= heavier + 1e-6).all()
        assert (heavier <= surely[:, 2:] + doubt[:, 2:] + 1e-6).all()
        held = np.stack([np.bincount(place[own], column, places.shape[1]) for column in nodes.mass[own].T], 1)
        inside[part], above[part] = held[places[1] > 1], (normal >= ends[:, None]).sum(1)
        certain[part], uncertain[part] = exact[:, 0], doubt[:, 0]
        if part > 0:
            assert (inside[part][:, 1:] <= share * totals[1:] + 1e-6).all()
            assert (doubt[:, 1:] <= DEPTH * share * totals[1:] + 1e-6).all()
    for parts in [{NORMAL}, {NORMAL, ONE}, {NORMAL, OTHER}, {NORMAL, ONE, OTHER}]:
        shown = parts & set(certain)
        intervals = np.sum([inside[part][:, 0] for part in shown], 0), np.sum([above[part] for part in shown], 0)
        assert (intervals[0] <= share * intervals[1] + 1e-6).all()
        ranks = np.sum([uncertain[part] for part in shown], 0), np.sum([certain[part] for part in shown], 0)
        assert (ranks[0] <= DEPTH * share * ranks[1] + 1e-6).all()


def test_equal_scores_stay_single_and_exact() -> None:
    keys = np.sort(np.random.default_rng(0).integers(-50, 50, 10_000).astype(np.int32) * 12_345)
    nodes = compressed([Pixels(NORMAL, keys, keys[:0], np.zeros((0, 2)))], no_nodes(), 1e-4)
    values, counts = np.unique(keys, return_counts=True)
    assert (nodes.width == 1).all()
    assert nodes.low.tolist() == values.tolist()
    assert nodes.mass[:, 0].tolist() == counts.tolist()


def test_all_that_may_be_one_interval_is_one() -> None:
    keys = np.array([-5, 0, 9], np.int32)
    nodes = compressed([Pixels(ONE, keys[:0], keys, np.ones((3, 2)))], no_nodes(), 1.0)
    assert nodes.width.tolist() == [ALL_SCORES]
    assert nodes.mass.tolist() == [[0, 3, 3, 3]]
    assert len(compressed([], no_nodes(), 0.1).low) == 0


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(nodes: Nodes) -> list[tuple[float, ...]]:
        return sorted(tuple(row) for row in np.column_stack([nodes.low, nodes.width, nodes.part, nodes.mass]).tolist())

    whole, _ = _stream(1, ["same", "up", "far"], 0.01)
    monkeypatch.setattr(sketch, "BLOCK", 7)
    assert rows(_stream(1, ["same", "up", "far"], 0.01)[0]) == rows(whole)


def test_size_grows_with_the_logarithm_of_the_pixels() -> None:
    generator, nodes, sizes = np.random.default_rng(0), no_nodes(), []
    for _ in range(32):
        keys = np.sort(to_keys(np.exp(8 * generator.standard_normal(2**16)).astype(np.float32)))
        nodes = compressed([Pixels(NORMAL, keys, keys[:0], np.zeros((0, 2)))], nodes, 0.01)
        sizes.append(len(nodes.low))
    assert sizes[-1] < 2**16 / 8
    growth = sizes[31] - sizes[15], sizes[15] - sizes[7]  # each for twice the pixels
    assert max(growth) < 0.15 * sizes[-1]


def _maps() -> tuple[Tensor, Tensor, list[str]]:
    """(12, 1, 40, 40) noise with defects that stand out a little."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(12, 1, 40, 40)
    for image in range(4, 12):
        for side in (9, 3, 1):
            top, left = torch.randint(0, 40 - side, (2,), generator=generator).tolist()
            masks[image, 0, top : top + side, left : left + side] = 1
    return torch.randn(masks.shape, generator=generator) + 1.5 * masks, masks, ["ab"[image % 2] for image in range(12)]


def _ramp(step: float) -> Tensor:
    return step * torch.arange(12)[:, None, None, None]


DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "heavy tails": lambda z: (8 * z).exp(),
    "far offset": lambda z: 10 + 1e-3 * z,
    "noise": lambda z: z,
    "one outlier": lambda z: torch.where(z == z.max(), 3e38, z),
    "ties": lambda z: (4 * z).round(),
    "rising": lambda z: z + _ramp(0.7),
    "falling": lambda z: z - _ramp(0.7),
    "a new scale each": lambda z: z.exp() * torch.exp(_ramp(5.0) - 30),
    "negative": lambda z: -(4 * z).exp(),
}


@pytest.mark.parametrize("tolerance", [0.5, 0.05])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_measures_stay_within_the_stated_bound(
    name: str, tolerance: float, oracle: Callable[..., dict[str, float]]
) -> None:
    z, masks, groups = _maps()
    maps = DISTRIBUTIONS[name](z)
    metric = LocalizationMetrics(exact_pixels=3000, tolerance=tolerance)
    for part in range(0, 12, 2):
        metric.update(maps[part : part + 2], masks[part : part + 2], groups=groups[part : part + 2])
    found = {key: value.item() for key, value in metric.compute().items()}
    assert int(metric.pending) <= 3000
    assert metric.node_masses[0].numel()  # it was compressed, and several times
    bounds = dict.fromkeys(("best_iou", "f1_max"), tolerance)
    bounds |= dict.fromkeys(("aupro", "aupro_005", "aupimo"), tolerance / 2)
    bounds |= {"pixel_auroc": tolerance / 4, "pixel_ap": tolerance * (1 + math.log(1 / tolerance))}
    for end, own in [("", list("ab")), *((f"/{group}", [group]) for group in "ab")]:
        shown = [b for b in range(12) if groups[b] in own or not masks[b].any()]
        expected = oracle(maps[shown, 0].double().numpy(), masks[shown, 0].numpy() > 0)
        for key, bound in bounds.items():
            assert found[key + end] == pytest.approx(expected[key], abs=bound + 1e-6)
        at = found[f"f1_max_threshold{end}"]  # the threshold found is nearly as good as the best
        called, truth = maps[shown] >= at, masks[shown] > 0
        f1 = 2 * int((called & truth).sum()) / int(called.sum() + truth.sum())
        assert f1 >= expected["f1_max"] - 2 * tolerance
