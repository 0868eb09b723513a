"""Gradients of many targets with respect to one activation, in chunks that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from vaex.attention.checks import check_chunk
from vaex.errors import VaexError

BYTE_BUDGET = 32 * 2**20
"""Bytes of gradients held at a time; beyond it, batching is slower than a loop on a CPU (fresh pages, cache)."""


LOOPED_BYTES = 2**20
"""Activations above this size take one backward pass per target where a graph is kept: batches cost a quarter more."""


def summable(values: Tensor) -> Tensor:
    """Return ``values`` in fp32 at least: what maps are summed in, and come in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def targets_per_pass(activation: Tensor, create_graph: bool = False) -> int:
    """Return how many targets one batched backward pass may hold within `BYTE_BUDGET`, at least 1."""
    size = activation.numel() * activation.element_size()
    return 1 if create_graph and size > LOOPED_BYTES else max(1, BYTE_BUDGET // max(1, size))


def target_gradients(
    targets: Tensor, activation: Tensor, chunk: int | None = None, create_graph: bool = False
) -> Iterator[Tensor]:
    """Yield d targets / d activation as (t, B, K, h, w) for t targets at a time, in their order.

    ``targets`` is (B, T) and row b must depend on image b alone; ``chunk`` bounds t.

    Raises:
        VaexError: when the targets have no gradient path to the activation, or ``chunk`` is below 1.
    """
    check_chunk(chunk)
    no_path = VaexError(
        "The target has no gradient path to the layer: the layer lies behind the code, or the model detaches "
        "(no_grad, detach, argmax) between them; choose an earlier layer or another target."
    )
    if not (targets.requires_grad and activation.requires_grad):
        raise no_path
    chunk = chunk or targets_per_pass(activation, create_graph)
    for (block,) in backward_passes(targets, [activation], chunk, create_graph):
        if block is None:
            raise no_path
        yield block


Sources = Sequence[Tensor] | Sequence[GradientEdge]
Gradients = Sequence[Tensor | None]


def backward_passes(
    targets: Tensor, sources: Sources, chunk: int, create_graph: bool = False, retain: bool = False
) -> Iterator[Gradients]:
    """Yield d targets / d source, (t, B, ...), of all sources for ``chunk`` targets at a time; None without a path.

    ``retain`` keeps the graph for passes after the last one, too.
    """
    count = targets.shape[1]
    for start in range(0, count, chunk):
        block = targets[:, start : start + chunk]
        keep = retain or create_graph or start + chunk < count
        if block.shape[1] == 1:
            yield [None if one is None else one[None] for one in _single(block[:, 0], sources, keep, create_graph)]
        else:
            yield _batched(block, sources, keep, create_graph)


def _single(target: Tensor, sources: Sources, keep: bool, create_graph: bool) -> Gradients:
    return torch.autograd.grad(target.sum(), sources, retain_graph=keep, create_graph=create_graph, allow_unused=True)


def _batched(block: Tensor, sources: Sources, keep: bool, create_graph: bool) -> Gradients:
    count = block.shape[1]
    basis = torch.eye(count, dtype=block.dtype, device=block.device)[:, None, :].expand(count, *block.shape)
    try:
        return torch.autograd.grad(
            block,
            sources,
            grad_outputs=basis,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=True,
        )
    except RuntimeError:
        # A backward that cannot be batched (a custom autograd.Function), told in many words: the same values come one
        # target at a time, and so does a failure that has another reason
        rows = [_single(block[:, t], sources, keep or t < count - 1, create_graph) for t in range(count)]
        columns = [[one for one in column if one is not None] for column in zip(*rows, strict=True)]
        return [torch.stack(column) if len(column) == count else None for column in columns]
