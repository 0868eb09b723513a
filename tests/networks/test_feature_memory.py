"""A memory that gives what was computed, and computes nothing twice."""

from __future__ import annotations

import torch
from torch import Tensor

from vaex.networks.feature_memory import FeatureMemory


class Counting:
    """Twice the image, and how many images were asked for."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images * 2


def test_each_image_is_computed_once_whatever_its_batch() -> None:
    images, compute, memory = torch.rand(5, 3, 4, 4), Counting(), FeatureMemory()
    for part in ([0, 1], [1, 2, 3], [4, 0], [3], [0, 1, 2, 3, 4]):
        torch.testing.assert_close(memory(images[part], compute), images[part] * 2, rtol=0, atol=0)
    assert compute.images == 5


def test_a_changed_image_is_another_one() -> None:
    image, compute, memory = torch.rand(1, 1, 4, 4), Counting(), FeatureMemory()
    memory(image, compute)
    image[0, 0, 0, 0] += 0.5
    torch.testing.assert_close(memory(image, compute), image * 2)
    torch.testing.assert_close(memory(image.reshape(1, 1, 2, 8), compute), image.reshape(1, 1, 2, 8) * 2)
    assert compute.images == 3


def test_it_forgets_what_was_asked_for_longest_ago() -> None:
    images, compute = torch.rand(3, 1, 4, 4), Counting()
    memory = FeatureMemory(most=2 * 64)  # two of 16 floats
    for row in (0, 1, 0, 2, 0, 1):  # 1 is dropped for 2, and 2 for 1
        memory(images[row : row + 1], compute)
    assert compute.images == 4
    assert memory.bytes == 128


def test_gradients_and_inference_tensors_pass() -> None:
    memory, compute = FeatureMemory(), Counting()
    with torch.inference_mode():
        image = torch.rand(1, 1, 4, 4)
        memory(image, compute)
        kept = memory(image, compute)
    weight = torch.ones(1, requires_grad=True)
    (memory(image.clone(), compute) * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, kept.sum().reshape(1))
    leaf = image.clone().requires_grad_()
    memory(leaf, compute).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, torch.full_like(leaf, 2))
