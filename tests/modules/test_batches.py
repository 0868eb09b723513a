"""Images, masks and labels in whatever a data loader yields."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.errors import VaexError
from vaex.modules.batches import as_batch, entry, images_of

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


def test_a_mapping_keeps_what_it_holds_and_a_tuple_gives_images_alone() -> None:
    whole = {"image": IMAGES, "index": torch.arange(4)}
    assert as_batch(whole) is whole
    assert as_batch({"images": IMAGES, "index": whole["index"]}).keys() == {"images", "index", "image"}
    assert as_batch((IMAGES, torch.arange(4))) == {"image": IMAGES}
