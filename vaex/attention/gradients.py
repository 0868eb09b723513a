"""Gradients of many targets with respect to one activation, in chunks that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vaex.errors import VaexError

BYTE_BUDGET = 32 * 2**20
"""Bytes of gradients held at a time; beyond it, batching is slower than a loop on a CPU (fresh pages, cache)."""


def targets_per_pass(activation: Tensor) -> int:
    """Return how many targets one batched backward pass may hold within `BYTE_BUDGET`, at least 1."""
    return max(1, BYTE_BUDGET // max(1, activation.numel() * activation.element_size()))


def target_gradients(
    targets: Tensor, activation: Tensor, chunk: int | None = None, create_graph: bool = False
) -> Iterator[Tensor]:
    """Yield d targets / d activation as (t, B, K, h, w) for t targets at a time, in their order.

    ``targets`` is (B, T) and row b must depend on image b alone; ``chunk`` bounds t.

    Raises:
        VaexError: when the targets have no gradient path to the activation, or ``chunk`` is below 1.
    """
    if chunk is not None and chunk < 1:
        raise VaexError(f"chunk must be at least 1 target per backward pass, got {chunk}.")
    count = targets.shape[1]
    size = min(count, chunk or targets_per_pass(activation))
    no_path = VaexError(
        "The target has no gradient path to the layer: the layer lies behind the code, or the model detaches "
        "(no_grad, detach, argmax) between them; choose an earlier layer or another target."
    )
    if not (targets.requires_grad and activation.requires_grad):
        raise no_path
    for start in range(0, count, size):
        block = targets[:, start : start + size]
        keep = create_graph or start + size < count
        if block.shape[1] == 1:
            gradients = _single(block[:, 0], activation, keep, create_graph)
            stacked = None if gradients is None else gradients[None]
        else:
            stacked = _batched(block, activation, keep, create_graph)
        if stacked is None:
            raise no_path
        yield stacked


def _single(target: Tensor, activation: Tensor, keep: bool, create_graph: bool) -> Tensor | None:
    return torch.autograd.grad(
        target.sum(), activation, retain_graph=keep, create_graph=create_graph, allow_unused=True
    )[0]


def _batched(block: Tensor, activation: Tensor, keep: bool, create_graph: bool) -> Tensor | None:
    count = block.shape[1]
    basis = torch.eye(count, dtype=block.dtype, device=block.device)[:, None, :].expand(count, *block.shape)
    try:
        return torch.autograd.grad(
            block,
            activation,
            grad_outputs=basis,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=True,
        )[0]
    except RuntimeError:
        # A backward that cannot be batched (a custom autograd.Function), told in many words: the same values come one
        # target at a time, and so does a failure that has another reason
        rows = [_single(block[:, t], activation, keep or t < count - 1, create_graph) for t in range(count)]
        present = [row for row in rows if row is not None]
        return torch.stack(present) if len(present) == count else None
