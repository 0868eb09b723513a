"""Which activation a map is read from: finding a layer by name and capturing its output in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vaex.errors import VaexError, nearest

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def resolve_layer(model: nn.Module, layer: str) -> str:
    """Return the full dotted name of ``layer``: an exact name, or the only one that ends in ``.layer``.

    Of several, the one inside ``encoder`` is meant, since a map is read on the way to the code.

    Raises:
        VaexError: when no module or more than one has that name; the valid names are listed.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return layer
    matches = [name for name in names if name.endswith(f".{layer}")]
    if len(matches) > 1:
        matches = [name for name in matches if name.startswith("encoder.")] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise VaexError(f"Layer '{layer}' is ambiguous: write one of {', '.join(matches)}.")
    leaves = [name for name, module in model.named_modules() if name and not any(module.children())]
    close = nearest(layer, [*names, *(name.rpartition(".")[2] for name in names)])
    hint = f"did you mean '{close[0]}'? " if close else ""
    listed = ", ".join(leaves[:60]) + (", ..." if len(leaves) > 60 else "")
    raise VaexError(f"Layer '{layer}' does not exist in {type(model).__name__}: {hint}valid names are {listed}.")


@contextmanager
def capture(model: nn.Module, names: Sequence[str], cut: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the layers ``names`` while the body runs a forward pass; leaves no hook behind.

    ``cut=True`` starts the graph at the captured layer: what lies before it runs as it would under
    ``no_grad``, and the activation is a leaf that requires gradients.

    Raises:
        VaexError: for an unknown layer, one that runs twice, or one whose output is not a tensor.
    """
    kept: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:  # noqa: ARG001
            if not isinstance(output, Tensor):
                raise VaexError(
                    f"Layer '{name}' returns a {type(output).__name__}, not a tensor; choose a layer inside it."
                )
            if name in kept:
                raise VaexError(
                    f"Layer '{name}' runs more than once in a forward pass, so no single activation is its own; "
                    "choose a layer that runs once, or give each call its own module."
                )
            if cut:
                torch.set_grad_enabled(True)  # undone by the caller's grad-mode context
                output = output.detach().requires_grad_()
            kept[name] = output
            # What follows works on a copy: an in-place ReLU would overwrite the kept activation
            return output.clone()

        return hook

    try:
        for name in names:
            handles.append(model.get_submodule(resolve_layer(model, name)).register_forward_hook(hook_for(name)))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def default_layer(model: nn.Module, forward: Callable[[Tensor], Any], code: Callable[[Any], Tensor], image: Tensor) -> str:
    """Return the last convolution in call order that has more than one cell and is not the code itself.

    ``image`` is one probe image (1, C, H, W); ``code`` picks the code out of what ``forward`` returns.

    Raises:
        VaexError: when no convolution qualifies.
    """
    calls: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, output, name=name: calls.append((name, output)))  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    try:
        with torch.no_grad():
            mean = code(forward(image))
    finally:
        for handle in handles:
            handle.remove()
    storage = mean.untyped_storage().data_ptr()
    names = [name for name, _ in calls]
    for name, output in reversed(calls):
        spatial = output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1
        if spatial and output.untyped_storage().data_ptr() != storage and names.count(name) == 1:
            return name
    raise VaexError(
        f"{type(model).__name__} has no convolution before its code with more than one cell; name a layer (layer=...)."
    )
