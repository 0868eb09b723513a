"""The table of extremes against sorting all scores, and the strips of its cells against their pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaex.callbacks.extremes import Extremes
from vaex.callbacks.strips import strip_of
from vaex.types import Explanation
from vaex.viz import overlay


def explanation(scores: list[float], maps: torch.Tensor | None = None) -> Explanation:
    count = len(scores)
    maps = torch.rand(count, 2, 4, 4) if maps is None else maps
    return Explanation(maps, torch.rand(count, 1, 4, 4), torch.tensor(scores), torch.zeros(count, 2), None, None, None)


def taken(parts: list[list[float]], count: int, offset: int = 0) -> Extremes:
    extremes, place = Extremes(count), offset
    for scores in parts:
        index = torch.arange(place, place + len(scores))
        batch = {"image": torch.rand(len(scores), 1, 4, 4), "index": index}
        extremes.update(batch, explanation(scores), lambda found: ([0], ["z0"]))
        place += len(scores)
    return extremes


def rows(extremes: Extremes) -> list[tuple[str, int, int]]:
    return [(end, rank, found.place) for end, rank, found in extremes.rows()]


def expected(scores: list[float], count: int) -> list[tuple[str, int, int]]:
    """Sort everything: highest first, of equal scores the lower position; no image on both ends."""
    order = sorted(
        (place for place, s in enumerate(scores) if math.isfinite(s)), key=lambda place: (-scores[place], place)
    )
    rising = sorted(order, key=lambda place: (scores[place], place))
    top, bottom = order[:count], rising[:count]
    if set(top) & set(bottom):
        known = [place for place in order if place in {*top, *bottom}]
        half = (len(known) + 1) // 2
        top, bottom = known[:half][:count], known[half:][::-1][:count]
    return [(end, n + 1, place) for end, part in (("most", top), ("least", bottom)) for n, place in enumerate(part)]


NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0, 7.0, float("nan"), float("inf")])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=5), min_size=1, max_size=6), st.integers(1, 4))
def test_rows_are_the_ends_of_all_scores(parts: list[list[float]], count: int) -> None:
    assert rows(taken(parts, count)) == expected([score for part in parts for score in part], count)


def test_processes_merge_to_the_table_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = [[0.1, 0.9, 0.4], [0.7, 0.2]], [[0.8, 0.3, 0.95], [0.05]]
    other = taken(second, 2, offset=5)

    def gathered(parts: list[Any], own: Any) -> None:
        # the padding of a sampler may show an image to two processes
        parts[:] = [own, (other._top, [*other._bottom, *own[1]])]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    flat = [score for part in (*first, *second) for score in part]
    assert rows(taken(first, 2).merged()) == expected(flat, 2)


def test_labels_and_kinds_stand_beside() -> None:
    extremes = Extremes(1, ("good", "cut"))
    batch = {
        "image": torch.rand(3, 1, 4, 4),
        "label": torch.tensor([0, 1, 0]),
        "group": torch.tensor([0, 1, 0]),
        "mask": torch.zeros(3, 1, 4, 4),
    }
    extremes.update(batch, explanation([0.2, 0.9, 0.1]), lambda found: ([0], ["z0"]))
    found = [(row.place, row.label, row.kind, row.strip.mask is None) for _, _, row in extremes.rows()]
    assert found == [(1, 1, "cut", False), (2, 0, "good", False)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_is_the_image_its_score_map_and_its_maps(channels: int) -> None:
    image = torch.randint(256, (channels, 40, 50)) / 255  # nothing that rounds either way
    mask = (torch.rand(1, 40, 50) > 0.5).float()
    maps = torch.rand(1, 3, 40, 50)
    maps[0, 2] -= 0.5  # signed
    one = Explanation(maps, torch.rand(1, 1, 40, 50) - 0.2, torch.tensor([1.5]), torch.zeros(1, 3), None, None, None)
    strip = strip_of(image, one, mask, [2, 0], ["z2", "z0"])
    assert strip.caption == "image | score 1.5 | z2 | z0"
    assert strip.mask is not None
    assert strip.pixels.shape == (3 * 40, 4 * 3 * 50, 3)  # 40 pixels three times is the most below 128
    small = strip.pixels[::3, ::3]
    assert np.array_equal(np.kron(small, np.ones((3, 3, 1), np.uint8)), strip.pixels)
    tile = np.rint(np.broadcast_to(image.permute(1, 2, 0).numpy(), (40, 50, 3)) * 255).astype(np.float64)
    assert np.array_equal(small[:, :50], tile)
    ground = tile / 255
    scored = overlay(ground, one.score_map[0, 0].clamp(min=0).numpy())
    drawn = [scored, overlay(ground, maps[0, 2].numpy(), signed=True), overlay(ground, maps[0, 0].numpy())]
    assert np.array_equal(small[:, 50:], np.concatenate(drawn, axis=1))
    assert np.array_equal(strip.mask[::3, ::3], np.tile(mask[0].numpy().astype(np.uint8), (1, 4)))
