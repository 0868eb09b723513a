"""Bits unpacked by numpy and by torch are the pixels that were packed."""

from __future__ import annotations

import numpy as np
import torch

from vaex.data.packed import pack_images, unpack_images


def test_the_first_pixel_is_the_highest_bit() -> None:
    image = np.zeros((1, 2, 8), np.uint8)
    image[0, 0, 0] = image[0, 1, 7] = 1
    assert pack_images(image).tolist() == [[128, 1]]


def test_numpy_and_torch_unpack_what_was_packed() -> None:
    images = np.random.default_rng(0).integers(0, 2, (5, 6, 12), dtype=np.uint8)
    bits = pack_images(images)
    assert bits.shape == (5, 9)
    rows = np.array([4, 0, 0])
    for held in (bits, torch.from_numpy(bits)):
        found = unpack_images(held, rows, 6, 12)
        assert found.dtype == torch.float32
        assert found.shape == (3, 1, 6, 12)
        np.testing.assert_array_equal(found[:, 0], images[rows])
