"""What follows a layer, read from the autograd graph of the targets, so that any module takes part."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import torch
from torch import Tensor

ELEMENTWISE = {
    f"{name}Backward0"
    for name in (
        *("Relu", "LeakyRelu", "PreluKernel", "Elu", "Gelu", "Silu", "Mish", "Softplus", "Tanh", "Sigmoid"),
        *("Hardtanh", "Hardswish", "Hardsigmoid", "NativeBatchNorm"),
    )
}
"""Nodes whose derivative is one number per element; batch-norm counts in evaluation mode only."""


PIECEWISE_LINEAR = {"ReluBackward0", "LeakyReluBackward0", "HardtanhBackward0"}
"""Those of `ELEMENTWISE` whose derivative is constant almost everywhere and has no parameter."""

VIEWS = {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"}

Users = dict[Any, list[tuple[Any, int]]]


class Shift(NamedTuple):
    """The node whose input is reached, which of its inputs, and the diagonal derivative on the way (None is 1)."""

    node: Any
    position: int
    slope: Tensor | None
    viewed: list[tuple[int, ...]]


def users_below(root: Any) -> Users:
    """Return who uses each node of the graph below ``root``, as (node, number of the input)."""
    users: Users = {}
    waiting, seen = [root], {root}
    while waiting:
        node = waiting.pop()
        for position, (below, _) in enumerate(node.next_functions):
            if below is None:
                continue
            users.setdefault(below, []).append((node, position))
            if below not in seen:
                seen.add(below)
                waiting.append(below)
    return users


def follow(users: Users, node: Any, shape: tuple[int, ...], like: Tensor, through: Container[str]) -> Shift | None:
    """Follow the only user of ``node`` through copies, views and the nodes ``through``; None where paths part."""
    slope: Tensor | None = None
    viewed: list[tuple[int, ...]] = []
    while len(users.get(node, ())) == 1:
        node, position = users[node][0]
        name = node.name()
        if name == "CloneBackward0":
            continue
        if name in VIEWS:
            viewed.append(tuple(int(side) for side in node._saved_self_sym_sizes))
            continue
        if name not in through or position != 0 or viewed or getattr(node, "_saved_training", False):
            return Shift(node, position, slope, viewed)
        with torch.no_grad():
            came = node(like.new_ones(shape) if slope is None else slope)
        slope = came[0] if isinstance(came, tuple) else came
    return None


def matrix_reached(shift: Shift | None) -> Tensor | None:
    """Return the matrix (inputs, outputs) of the linear layer that ``shift`` has reached, or None."""
    if shift is None:
        return None
    expected = {"AddmmBackward0": 1, "MmBackward0": 0}.get(shift.node.name())
    plain = float(getattr(shift.node, "_saved_alpha", 1)) == 1
    if expected != shift.position or not plain:
        return None
    matrix: Tensor | None = shift.node._saved_mat2
    return matrix


class Geometry(NamedTuple):
    """A two-dimensional convolution without groups."""

    weight: Tensor  # (C, K, rows, columns)
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    outputs: list[int]  # cells a side

    @classmethod
    def of(cls, node: Any, position: int, cells: list[int]) -> Geometry | None:
        """Return that of the convolution ``node`` on ``cells`` a side; None for any other kind or input."""
        weight: Tensor = node._saved_weight
        if node._saved_transposed or node._saved_groups != 1 or position != 0 or weight.dim() != 4:
            return None
        stride, padding, dilation = (
            [int(side) for side in getattr(node, f"_saved_{name}")] for name in ("stride", "padding", "dilation")
        )
        sides = zip(cells, weight.shape[2:], stride, padding, dilation, strict=True)
        outputs = [(n + 2 * pad - reach * (tap - 1) - 1) // step + 1 for n, tap, step, pad, reach in sides]
        return cls(weight, stride, padding, dilation, outputs)
