"""Exact channel weights without a backward pass per target to the layer: the shift of a channel, pushed forward.

Grad-CAM needs the spatial mean of d target / d A_k alone. Times the number of cells P, that is the derivative by a
shift of channel k, the same at every cell. Behind an activation (and batch-norm in evaluation mode) the shift is still
one tensor (B, K, h, w), and one product with the weights of the linear layer or convolution that follows turns it into
V, what the shift does to that layer's output. Then alpha_k = <d target / d output, V_k> / P: each target goes backward
to that output only, not through the large layer. Through a second linear layer behind an activation V is pushed on in
the same way. Behind global average pooling, and where no activation comes between, V is the same for every image.

What follows the layer is read from the autograd graph of the targets, so any module takes part, however it is written;
where the graph has another shape, or where it would not pay, the answer is None and the caller differentiates.

A loss takes the same way with a graph: it saves the second-order backward through the large layer, too. The slopes are
then constants, which is exact for the activations `PIECEWISE_LINEAR`; others are differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F

from vaex.attention.followers import (
    ELEMENTWISE,
    PIECEWISE_LINEAR,
    Geometry,
    Shift,
    Users,
    follow,
    matrix_reached,
    users_below,
)
from vaex.attention.gradients import BYTE_BUDGET, Gradients, backward_passes

CHUNK_BYTES = 2 * 2**20
"""Bytes of V held at a time; more no longer fits the cache of a core."""


def _passes(targets: Tensor, nodes: Sequence[Any], elements: int) -> Iterator[Gradients]:
    """Yield d targets / d output of each node, a few targets at a time; one target's have ``elements`` numbers.

    They carry a graph where gradients are enabled.
    """
    create_graph = torch.is_grad_enabled()
    chunk = max(1, CHUNK_BYTES // max(1, elements * targets.element_size()))
    for start in range(0, targets.shape[1], chunk):
        with torch.enable_grad():  # the targets are taken apart within their graph
            block = targets[:, start : start + chunk]
            edges = [GradientEdge(node, 0) for node in nodes]
            (gradients,) = backward_passes(block, edges, chunk, create_graph, retain=True)
        yield gradients


def _gradients(targets: Tensor, node: Any, elements: int) -> Tensor | None:
    """Return d targets / d output of ``node``, (T, B, ...); None where no path leads there."""
    parts = [gradient for (gradient,) in _passes(targets, [node], elements) if gradient is not None]
    return torch.cat(parts) if parts else None


def channel_weights(targets: Tensor, activation: Tensor, create_graph: bool = False) -> Tensor | None:
    """Return the spatial mean of d targets / d activation, (T, B, K), where a fold is exact and pays; else None.

    ``activation`` (B, K, h, w) is in the graph of ``targets`` (B, T); without ``create_graph`` as the leaf it begins
    with. ``create_graph`` makes the weights differentiable, any number of times.
    """
    if targets.grad_fn is None or not (activation.is_leaf or create_graph):
        return None
    users = users_below(targets.grad_fn)
    with torch.set_grad_enabled(create_graph):
        node = _origin(users, activation)
        if node is None:
            return None
        if all(user.name() == "ConvolutionBackward0" for user, _ in users[node]):
            return _through_plain_convolutions(targets, users[node], activation)
        shift = follow(users, node, tuple(activation.shape), activation, _passable())
        if shift is None:
            return None
        if (matrix := matrix_reached(shift)) is not None:
            return _through_linear(targets, users, shift, matrix, activation)
        through = {"MeanBackward1": _through_mean, "ConvolutionBackward0": _through_convolution}.get(shift.node.name())
        return None if through is None or shift.viewed else through(targets, shift, activation)


def _origin(users: Users, activation: Tensor) -> Any | None:
    """Return the node that ``activation``, or a copy of it, comes from; None where the targets do not use it."""
    node = activation.grad_fn
    if node is None:
        node = next((node for node in users if getattr(node, "variable", None) is activation), None)
    if node not in users or any(user.next_functions[at] != (node, activation.output_nr) for user, at in users[node]):
        return None
    while [user.name() for user, _ in users[node]] in (["CloneBackward0"], ["CopyBackwards"]):
        node = users[node][0][0]
    return node if node in users else None


def _passable() -> set[str]:
    """Return the activations that may lie between: the derivative of a slope is lost, so with a graph it must be 0."""
    return PIECEWISE_LINEAR if torch.is_grad_enabled() else ELEMENTWISE


def _through_mean(targets: Tensor, shift: Shift, activation: Tensor) -> Tensor | None:
    """Global average pooling: the slope's mean times the gradient behind it."""
    dims = {int(dim) % 2**64 for dim in shift.node._saved_dim}  # negative ones are stored as unsigned numbers
    if dims not in ({2, 3}, {2**64 - 2, 2**64 - 1}):
        return None
    gradient = _gradients(targets, shift.node, activation.shape[0] * activation.shape[1])
    if gradient is None:
        return None
    weights = gradient.flatten(2) / math.prod(activation.shape[2:])  # (T, B, K)
    return weights if shift.slope is None else weights * shift.slope.mean((-2, -1))


def _through_linear(targets: Tensor, users: Users, shift: Shift, matrix: Tensor, activation: Tensor) -> Tensor | None:
    """Flatten and a linear layer, and where they follow one after the other an activation and a second one."""
    batch, channels, *cells = activation.shape
    positions = math.prod(cells)
    if shift.viewed[:1] != [tuple(activation.shape)] or matrix.shape[0] != channels * positions:
        return None
    second = follow(users, shift.node, (batch, matrix.shape[1]), activation, _passable())
    onward = matrix_reached(second) if second is not None and not second.viewed else None
    last, width = (shift.node, matrix.shape[1]) if second is None or onward is None else (second.node, onward.shape[1])
    gradient = _gradients(targets, last, batch * width)
    if gradient is None:
        return None
    by_channel = matrix.view(channels, positions, -1) if matrix.is_contiguous() else matrix.unflatten(0, (channels, -1))
    slope = None if shift.slope is None else shift.slope.flatten(2).transpose(0, 1)  # (K, B, P)
    parts = []
    step = max(1, CHUNK_BYTES // (batch * matrix.shape[1] * matrix.element_size()))
    for start in range(0, channels, step):
        block = by_channel[start : start + step]  # (k, P, H)
        if slope is None:
            shifted = block.sum(1, keepdim=True).expand(-1, batch, -1)
        else:
            shifted = torch.bmm(slope[start : start + step], block)  # (k, B, H)
        if second is not None and onward is not None:
            if second.slope is not None:
                shifted = shifted * second.slope if slope is None else shifted.mul_(second.slope)
            shifted = shifted @ onward  # (k, B, D)
        parts.append(torch.bmm(gradient.transpose(0, 1), shifted.permute(1, 2, 0)))  # (B, T, k)
    return torch.cat(parts, 2).transpose(0, 1) / positions


def _through_plain_convolutions(targets: Tensor, users: list[tuple[Any, int]], activation: Tensor) -> Tensor | None:
    """Convolutions right behind the layer: a tap sees the gradient at the outputs where it is inside the layer."""
    batch, cells = activation.shape[0], list(activation.shape[2:])
    shapes = [shape for node, position in users if (shape := Geometry.of(node, position, cells)) is not None]
    if len(shapes) < len(users):
        return None
    inside = []  # per convolution and axis, (taps, outputs)
    for shape in shapes:
        for axis, size in enumerate(cells):
            outputs = torch.arange(shape.outputs[axis], device=activation.device) * shape.stride[axis]
            taps = torch.arange(shape.weight.shape[2 + axis], device=activation.device) * shape.dilation[axis]
            read = taps[:, None] + outputs - shape.padding[axis]
            inside.append(((read >= 0) & (read < size)).to(activation))
    weights = [shape.weight.transpose(0, 1).flatten(1).T for shape in shapes]
    elements = sum(batch * shape.weight.shape[0] * math.prod(shape.outputs) for shape in shapes)
    parts = []
    for gradients in _passes(targets, [node for node, _ in users], elements):
        total: Tensor | float = 0.0
        for index, gradient in enumerate(gradients):
            if gradient is None:
                return None
            felt = inside[2 * index] @ gradient @ inside[2 * index + 1].T  # (t, B, C, rows, columns)
            total = total + felt.flatten(2) @ weights[index]
        parts.append(torch.as_tensor(total / math.prod(cells)))
    return torch.cat(parts)


def _through_convolution(targets: Tensor, shift: Shift, activation: Tensor) -> Tensor | None:
    """A convolution behind an activation: each channel of the slope convolved alone, as a grouped convolution."""
    batch, channels, *cells = activation.shape
    shape = Geometry.of(shift.node, shift.position, cells)
    if shape is None or shift.slope is None:
        return None
    outputs, taps, count = shape.weight.shape[0], math.prod(shape.weight.shape[2:]), targets.shape[1]
    if taps * count < 2 * (taps + count):  # what a backward costs against the fold, which runs at half the speed
        return None
    positions = math.prod(shape.outputs)
    per_image = channels * outputs * positions * activation.element_size()
    if per_image > BYTE_BUDGET:  # V of a single image would outgrow the gradients that it replaces
        return None
    gradient = _gradients(targets, shift.node, batch * outputs * positions)
    if gradient is None:
        return None
    alone = shape.weight.transpose(0, 1).reshape(channels, outputs, taps)
    step = max(1, CHUNK_BYTES // per_image)
    parts = []
    for block, some in zip(shift.slope.split(step), gradient.split(step, 1), strict=True):
        shifted = _each_channel_alone(block, alone, shape)  # (b, K, C h' w')
        rows = some.flatten(2).transpose(0, 1)
        parts.append(_InnerProducts.apply(rows, shifted))  # type: ignore[no-untyped-call]  # (b, T, K)
    return torch.cat(parts).transpose(0, 1) / math.prod(cells)


class _InnerProducts(torch.autograd.Function):
    """a (b, T, n) and c (b, K, n) to (b, T, K), with both gradients in the layout of what they belong to: no copies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, c: Tensor) -> Tensor:
        return a @ c.transpose(1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch calls it so
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, c = ctx.saved_tensors
        return gradient @ c, gradient.transpose(1, 2) @ a


def _each_channel_alone(images: Tensor, weight: Tensor, shape: Geometry) -> Tensor:
    """Return what each channel of ``images`` (b, K, h, w) gives in the convolution without the others: (b, K, C h' w').

    ``weight`` is (K, C, taps).
    """
    batch, channels = images.shape[:2]
    sides = [int(side) for side in shape.weight.shape[2:]]
    if torch.is_grad_enabled():  # a product of matrices has the faster backward
        read = F.unfold(images, tuple(sides), tuple(shape.dilation), tuple(shape.padding), tuple(shape.stride))
        felt: Tensor = weight @ read.view(batch, channels, weight.shape[2], -1)  # (b, K, C, h' w')
        return felt.flatten(2)
    alone = weight.reshape(-1, 1, *sides)
    shifted = F.conv2d(images, alone, None, shape.stride, shape.padding, shape.dilation, channels)
    return shifted.reshape(batch, channels, -1)  # of images in channels_last it is no view
