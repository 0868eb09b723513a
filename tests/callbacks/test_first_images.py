"""A picture shows both kinds of image where labels tell them, however the data is ordered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaex.callbacks.first_images import FirstImages


def shown(labels: list[int] | None, most: int, count: int = 8, size: int = 3) -> list[int]:
    """Return which of ``count`` images are chosen; image and mask of number n have the value n."""
    images = torch.arange(count)[:, None, None, None].expand(count, 1, 2, 2).float()
    first = FirstImages(most)
    for part in torch.arange(count).split(size):
        first.update(images[part], 10 * images[part], None if labels is None else torch.tensor(labels)[part])
    found = first.chosen()
    if found is None:
        return []
    masks: Tensor | None = found[1]
    assert masks is not None
    assert torch.equal(masks, 10 * found[0])
    return [int(value) for value in found[0][:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "most", "expected"),
    [
        (None, 3, [0, 1, 2]),
        ([0, 0, 0, 0, 0, 1, 1, 1], 4, [0, 1, 5, 6]),
        ([1, 1, 1, 1, 1, 0, 0, 0], 5, [0, 1, 2, 5, 6]),  # of an odd number one more is anomalous
        ([0, 1] * 4, 6, [0, 1, 2, 3, 4, 5]),
        ([0, 0, 0, 0, 0, 0, 0, 1], 4, [0, 1, 2, 7]),  # too few of one kind
        ([1, 1, 1, 1, 1, 1, 1, 0], 4, [0, 1, 2, 7]),
        ([0] * 8, 4, [0, 1, 2, 3]),
        ([1] * 8, 4, [0, 1, 2, 3]),
        ([0, 1] * 4, 20, [0, 1, 2, 3, 4, 5, 6, 7]),
        ([0, 1] * 4, 0, []),
        ([1, 0] * 4, 1, [0]),
    ],
)
def test_both_kinds_are_shown(labels: list[int] | None, most: int, expected: list[int]) -> None:
    assert shown(labels, most) == expected


def test_images_of_another_shape_are_left_out() -> None:
    first = FirstImages(4)
    for side in (4, 6, 4):
        first.update(torch.rand(1, 1, side, side), None, None)
    found = first.chosen()
    assert found is not None
    assert found[0].shape == (2, 1, 4, 4)


def test_without_masks_there_are_none_and_without_images_nothing() -> None:
    first = FirstImages(2)
    assert first.chosen() is None
    first.update(torch.rand(3, 1, 4, 4), None, None)
    found = first.chosen()
    assert found is not None
    assert found[0].shape == (2, 1, 4, 4)
    assert found[1] is None
