"""Images, masks and labels in whatever a data loader yields."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.callbacks.batches import entry, images_of
from vaex.errors import VaexError

IMAGES = torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize(
    "batch",
    [IMAGES, [IMAGES, 1], (IMAGES, {"y": 1}), {"image": IMAGES, "mask": None}, {"images": IMAGES}, {"data": IMAGES}],
)
def test_images_are_found(batch: Any) -> None:
    assert images_of(batch) is IMAGES


@pytest.mark.parametrize(
    "batch",
    [{"pixels": IMAGES}, {"image": IMAGES[0]}, [IMAGES[0], IMAGES], [], (), None, [[IMAGES]], {"image": "a.png"}],
)
def test_batches_without_images_are_told(batch: Any) -> None:
    with pytest.raises(VaexError, match=r"no images \(B, C, H, W\) in the batch: expected a tensor, a tuple"):
        images_of(batch)


def test_entries() -> None:
    assert entry({"mask": IMAGES}, "mask") is IMAGES
    for batch in ({"label": IMAGES}, {"mask": None}, {"mask": "m.png"}, [IMAGES], IMAGES):
        assert entry(batch, "mask") is None
