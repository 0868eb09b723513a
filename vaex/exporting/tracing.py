"""From a pure function of one tensor, gradients included, to a program of torch.export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

Function = Callable[[Tensor], tuple[Tensor, ...]]


class _Folded(TorchFunctionMode):
    """Compute what does not depend on the input at once, so that the graph holds its value.

    So draws from a seeded generator, factors of a covariance and matrices of an interpolation become constants.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        traced = (FakeTensor, torch.SymInt, torch.SymFloat, torch.SymBool)
        leaves = tree_leaves((args, options))
        if func is torch.linalg.solve and not isinstance(args[0], FakeTensor):
            with _disable_current_modes():
                inverse = torch.linalg.inv(args[0])
            return inverse @ args[1]  # ONNX has no solver
        if func is torch.linalg.solve_triangular and not isinstance(args[0], FakeTensor):
            with _disable_current_modes():
                eye = torch.eye(len(args[0]), dtype=args[0].dtype)
                inverse = torch.linalg.solve_triangular(args[0], eye, **options)
            return inverse @ args[1]
        if func is torch.Tensor.to and not isinstance(args[0], FakeTensor) and isinstance(args[1], FakeTensor):
            args = (args[0], args[1].dtype)  # like a traced tensor: the graph runs on one device
            leaves = list(args)
        if any(isinstance(leaf, traced) for leaf in leaves) or getattr(func, "__module__", "") == "torch._C":
            return func(*args, **options)
        with _disable_current_modes():
            return func(*args, **options)


def _input_gradient(
    grad: Tensor,
    images: Tensor,
    weight: Tensor,
    bias_sizes: Any,  # noqa: ARG001
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],  # noqa: ARG001
    groups: int,
    mask: list[bool],  # noqa: ARG001
) -> tuple[Tensor, None, None]:
    """Return the gradient of a convolution with respect to its input: the transposed convolution.

    Weights are constants of an export, so their gradient is never asked for.
    """
    convolution = torch.ops.aten.convolution
    if transposed:
        return convolution(grad, weight, None, stride, padding, dilation, False, [0] * len(stride), groups), None, None
    sizes = zip(images.shape[2:], grad.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    missing = [int(i) - ((int(g) - 1) * s - 2 * p + d * (int(w) - 1) + 1) for i, g, w, s, p, d in sizes]
    return convolution(grad, weight, None, stride, padding, dilation, True, missing, groups), None, None


def _decompositions() -> dict[Any, Callable[..., Any]]:
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions())
    table[torch.ops.aten.convolution_backward.default] = _input_gradient
    return table


class _OfImages(nn.Module):
    def __init__(self, graph: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.traced = graph
        self.outputs = outputs

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.traced(image), strict=True))


class _OfCodes(_OfImages):
    def forward(self, code: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.traced(code), strict=True))


def traced_program(function: Function, example: Tensor, entry: str, outputs: tuple[str, ...], dynamic: bool) -> Any:
    """Return ``function`` as a `torch.export.ExportedProgram` that maps ``entry`` to a mapping of ``outputs``.

    ``example`` (B, ...) fixes the shapes; with ``dynamic`` the batch alone stays open, and B should equal no other
    side. Gradients inside ``function`` are written out, and a convolution's becomes a transposed convolution.

    Raises:
        Exception: whatever torch raises for what it cannot trace.
    """

    def folded(images: Tensor) -> tuple[Tensor, ...]:
        with _Folded():
            return function(images)

    mode: Literal["symbolic", "fake"] = "symbolic" if dynamic else "fake"
    graph = make_fx(folded, _decompositions(), tracing_mode=mode, _allow_non_fake_inputs=True)(example)
    graph.graph.eliminate_dead_code()
    for name in {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}:
        if not isinstance(value := getattr(graph, name), nn.Parameter):
            setattr(graph, name, value.detach().clone(memory_format=torch.contiguous_format))  # a view is saved badly
    graph.recompile()
    module = (_OfCodes if entry == "code" else _OfImages)(graph, outputs)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    with torch.no_grad():
        return torch.export.export(
            module.eval(), (example,), dynamic_shapes=shapes, strict=False
        )  # not so by default in 2.6
