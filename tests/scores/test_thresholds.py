"""Thresholds by a rate of false alarms, and their intervals, against binomial sums and simulation."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from vaex.errors import VaexError
from vaex.scores import score_named
from vaex.scores.thresholds import (
    PIXEL_RATES,
    NormalScores,
    check_rate,
    map_quantiles,
    middle_of,
    normal_scores_of,
    normal_state,
    pixel_scores,
    rate_above,
    scene_limit,
    threshold_at,
)


def binomial_at_least(count: int, least: int, p: float) -> float:
    """Return P(Bin(count, p) >= least), summed."""
    return math.fsum(math.comb(count, i) * p**i * (1 - p) ** (count - i) for i in range(least, count + 1))


@pytest.mark.parametrize(
    ("count", "rate", "position", "enough"),
    [
        (19, 0.05, 19, True),  # exactly enough: 0.05 * 20 = 1
        (18, 0.05, 18, False),
        (20, 0.05, 20, True),
        (39, 0.05, 38, True),
        (99, 0.01, 99, True),
        (98, 0.01, 98, False),
        (100, 0.5, 51, True),
        (1, 0.05, 1, False),
        (999, 0.001, 999, True),
        (29, 0.1, 27, True),  # 0.1 * 30 is 3.0000000000000004 or less in floating point
    ],
)
def test_which_score_is_the_threshold(count: int, rate: float, position: int, enough: bool) -> None:
    scores = torch.arange(1, count + 1).float()[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    found = threshold_at(scores, rate)
    assert found.value == position
    assert found.enough is enough
    assert found.images == count


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.5, 1), (0.3, 3)])
def test_how_many_images_a_rate_takes(rate: float, needed: int) -> None:
    for count in range(1, needed + 3):
        found = threshold_at(list(range(count)), rate)
        assert found.enough is (count >= needed)
        assert found.images_needed == needed


@pytest.mark.parametrize(("count", "rate"), [(21, 0.05), (200, 0.05), (37, 0.2), (10, 0.01)])
def test_interval_of_the_rate_is_that_of_the_order_statistic(count: int, rate: float) -> None:
    """The share p above the k-th of n uniform scores is at most x exactly when n - k + 1 or more lie above 1 - x."""
    found = threshold_at(list(range(1, count + 1)), rate)
    position = int(found.value)
    for share, probability in ((found.rate_low, 0.025), (found.rate_high, 0.975)):
        assert binomial_at_least(count, count - position + 1, share) == pytest.approx(probability, abs=1e-9)
        assert stats.beta.cdf(share, count - position + 1, position) == pytest.approx(probability, abs=1e-9)


@pytest.mark.parametrize(("count", "rate"), [(21, 0.05), (200, 0.05), (150, 0.1), (3, 0.5), (60, 0.5)])
def test_interval_of_the_threshold_covers_as_binomial_sums_say(count: int, rate: float) -> None:
    found = threshold_at(list(range(1, count + 1)), rate)
    first = 0 if found.low == -math.inf else int(found.low)
    last = count + 1 if found.high == math.inf else int(found.high)

    def below(share: int) -> float:  # P(fewer than `share` of the scores lie below the quantile)
        return 1 - binomial_at_least(count, share, 1 - rate)

    assert below(first) <= 0.025 + 1e-12 < below(first + 1)  # the innermost of those that keep the confidence
    assert 1 - below(last) <= 0.025 + 1e-12
    assert 1 - below(last - 1) > 0.025


def test_a_further_normal_image_is_above_as_often_as_said() -> None:
    generator = np.random.default_rng(0)
    rates, inside = [], 0
    for _ in range(400):
        found = threshold_at(generator.exponential(size=39).tolist(), 0.05)
        true = math.exp(-found.value)
        rates.append(true)
        inside += found.rate_low <= true <= found.rate_high
        assert found.low <= found.value <= found.high
    assert np.mean(rates) == pytest.approx(2 / 40, abs=4 * float(np.std(rates)) / 20)
    assert stats.binomtest(inside, 400, 0.95).pvalue > 1e-4


@pytest.mark.parametrize("above", [0, 1, 7, 20])
def test_rate_above_a_given_threshold_is_clopper_pearson(above: int) -> None:
    scores = [1.0] * above + [0.0] * (20 - above)
    expected = stats.binomtest(above, 20).proportion_ci(0.95, method="exact")
    assert rate_above(scores, 0.5) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("rate", [0, 1, -0.1, True, "x", None])
def test_what_is_no_rate(rate: object) -> None:
    with pytest.raises(VaexError, match="false_alarm_rate must be a number between 0 and 1"):
        check_rate(rate)


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]])
def test_scores_that_give_no_threshold(scores: list[float]) -> None:
    with pytest.raises(VaexError, match="finite scores of normal images"):
        threshold_at(scores, 0.05)


def test_quantiles_of_maps_are_exceeded_by_no_larger_share() -> None:
    maps = torch.randn(3, 1, 17, 13, generator=torch.Generator().manual_seed(0))
    maps[1] = maps[1].round()  # ties
    found = map_quantiles(maps)
    assert found.shape == (3, len(PIXEL_RATES))
    for image, levels in zip(maps, found, strict=True):
        for rate, level in zip(PIXEL_RATES, levels, strict=True):
            assert (image > level).float().mean() <= rate
            lower = image[image < level]
            assert (image > lower.max()).float().mean() > rate  # no lower value of the map would do
    for levels in found:
        assert all(a >= b for a, b in pairwise(levels.tolist()))


def test_what_is_kept_is_found_again_and_only_for_the_same_options() -> None:
    score = score_named({"name": "attention", "sigma": 2.0})
    state = normal_state(score, torch.arange(5.0), torch.rand(5, len(PIXEL_RATES)))
    options = {"layer": "conv2", "method": "grad_cam"}
    calibration = {**state, "attention": options}
    found = normal_scores_of(calibration, score, **_split(options))
    assert found.scores.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(pixel_scores(found, 0.01), found.pixels[:, 3])
    with pytest.raises(VaexError, match=r"with score\.sigma=2\.0 and not 0\.0; give the same"):
        normal_scores_of(calibration, score_named("attention"), **_split(options))
    with pytest.raises(VaexError, match=r"with attention\.layer=conv2 and not conv3"):
        normal_scores_of(calibration, score, "conv3", {"method": "grad_cam"})
    with pytest.raises(VaexError, match="held-out normal images for score=kl, only for attention; run"):
        normal_scores_of(calibration, score_named("kl"))
    with pytest.raises(VaexError, match="keeps no scores"):
        normal_scores_of({}, score)
    with pytest.raises(VaexError, match="pixel_rate must be one of"):
        pixel_scores(found, 0.02)


def test_the_middle_of_a_map_is_the_one_that_calibration_keeps() -> None:
    for size in ((4, 6), (5, 7), (1, 1)):
        score_map = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0)).double()
        values = sorted(score_map.flatten().tolist(), reverse=True)
        expected = next(value for value in values[::-1] if sum(one > value for one in values) <= len(values) / 2)
        assert middle_of(score_map[0, 0].numpy()) == expected
        assert float(map_quantiles(score_map)[0, PIXEL_RATES.index(0.5)]) == expected


def test_an_image_as_a_whole_is_beyond_the_normal_ones_by_their_whole_range() -> None:
    pixels = torch.zeros(9, len(PIXEL_RATES))
    pixels[:, PIXEL_RATES.index(0.5)] = torch.tensor([3.0, 5.0, 4.0, 4.5, 3.5, 3.2, 4.1, 4.9, 3.9])
    scores = torch.arange(9.0)
    assert scene_limit(NormalScores(scores, pixels)) == 5.0 + (5.0 - 3.0)
    assert scene_limit(NormalScores(scores[:7], pixels[:7])) is None  # too few
    earlier = NormalScores(scores, pixels[:, :6])  # before medians were kept
    assert scene_limit(earlier) is None
    with pytest.raises(VaexError, match=r"calibrated before pixel_rate=0\.5 was kept"):
        pixel_scores(earlier, 0.5)


def _split(options: dict[str, str]) -> dict[str, Any]:
    return {"layer": options["layer"], "options": {k: v for k, v in options.items() if k != "layer"}}
