"""Codes of all processes, for terms that couple the images of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from vaex.objectives.terms import AFTER_TRAINING


def processes() -> int:
    """Return the number of processes that train together, 1 where there is no process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """Interleave those of all processes; backward sums what all of them say of this process's part."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor) -> Tensor:  # noqa: ARG004 - as autograd calls it
        parts = [torch.empty_like(codes) for _ in range(processes())]
        distributed.all_gather(parts, codes)
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - as autograd calls it
        total = gradients[0].contiguous().clone()  # autograd may still need the original
        distributed.all_reduce(total)
        return total[distributed.get_rank() :: processes()]


def gathered(codes: Tensor, step: int = 0) -> Tensor:
    """Return the codes of all processes in turn, (B, ...) to (R B, ...), with their gradient.

    The first of each process come first, then the second: loaders deal images out so, and the order is that of one
    process that has them all.
    A term of them whose value is the same in all processes then has the gradient of the joint batch, once gradients are
    averaged over processes as DDP does; one that differs, by random draws of its own, has that of the average. All
    processes must call it, with equally many codes, as those of training batches are. In evaluation (``step`` is
    `AFTER_TRAINING`) they need not be, and each process keeps to its own: the identity, as for a single process. A
    gradient of second order stops here.
    """
    if step == AFTER_TRAINING or processes() == 1:
        return codes
    result: Tensor = _Gather.apply(codes.contiguous())  # type: ignore[no-untyped-call]
    return result


def joint_sum(values: Tensor, step: int = 0) -> Tensor:
    """Return ``values`` (...) added up over processes, with their gradient, for terms that are not linear in a sum.

    Such as a ratio of sums over the batch. In evaluation and for a single process the identity; see `gathered`.
    """
    return gathered(values[None], step).sum(0)


def joint_mean(values: Tensor, step: int = 0) -> Tensor:
    """Return the mean over processes of ``values`` (...), means over their equally large batches; see `joint_sum`."""
    return gathered(values[None], step).mean(0)
