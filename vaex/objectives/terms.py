"""The value of an objective: the total to minimise and the terms it is made of."""

from __future__ import annotations

import sys
from typing import NamedTuple, Protocol

from torch import Tensor

from vaex.types import Batch, VAEOutput

AFTER_TRAINING = sys.maxsize
"""The step at which every weight that changes during training has its final value; evaluations count with it."""


class Terms(NamedTuple):
    """``total`` is the loss, () in nats; ``parts`` are its unweighted, positive terms and its weights, each ()."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    """A callable of images (B, C, H, W), the VAE's output and the optimiser step; it holds numbers, no tensors.

    ``keep`` names the layers whose activations it needs, ``needs`` the keys of a batch besides the image. One that
    needs the ``mask`` learns from images with defects; others are for normal images and are not given any by
    ``data.pasted``. One that compares the images of a batch has ``least`` = 2, the images that it takes at least.
    """

    keep: tuple[str, ...]
    needs: tuple[str, ...]

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``; ``batch`` holds at least what it needs."""
