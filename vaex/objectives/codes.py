"""What objectives that compare the codes of different images ask of a batch, and of their weights."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.objectives.gathering import gathered


def check_weights(**values: Any) -> None:
    """Refuse weights of an objective that are no numbers, negative or not finite.

    Raises:
        VaexError: naming the config key.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise VaexError(f"objective.{name} must be a number of 0 or more, got {value!r}.")


def all_codes(codes: Tensor, objective: str, step: int) -> Tensor:
    """Return the codes (B, D) of all processes, in fp32 at least and with their gradient; see `gathered`.

    Raises:
        VaexError: for a latent grid, and for a single image, which has nothing to be compared with.
    """
    if codes.dim() != 2:
        raise VaexError(
            f"objective={objective} compares codes (B, D), and this network gives a latent grid {tuple(codes.shape)}; "
            "choose a network with one code per image, or objective=beta_vae."
        )
    codes = gathered(codes.to(torch.promote_types(codes.dtype, torch.float32)), step)
    if len(codes) < 2:
        raise VaexError(
            f"objective={objective} compares the images of a batch and got a batch of one; choose data.batch_size and "
            "data.eval_batch_size so that no batch, the last one included, has a single image."
        )
    return codes
