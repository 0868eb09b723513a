"""Which activation a map is read from: finding a layer by name and capturing its output in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.checks import check_recorded
from vaex.errors import VaexError, nearest

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
COMPILED = "_orig_mod."
"""What ``torch.compile(module)`` puts into the names of the layers inside; no name that a reader knows has it."""


def resolve_layer(model: nn.Module, layer: str) -> str:
    """Return the full dotted name of ``layer``: an exact name, or the only one that ends in ``.layer``.

    Of several, the one inside a module named ``encoder`` is meant, since a map is read on the way to the code.

    Raises:
        VaexError: when no module or more than one has that name; the valid names are listed.
    """
    names: dict[str, str] = {name.replace(COMPILED, ""): name for name, _ in model.named_modules() if name}
    layer = layer.replace(COMPILED, "")
    if layer in names:
        return names[layer]
    matches = [name for name in names if name.endswith(f".{layer}")]
    if len(matches) > 1:
        matches = [name for name in matches if "encoder" in name.split(".")] or matches
    if len(matches) == 1:
        return names[matches[0]]
    if matches:
        raise VaexError(f"Layer '{layer}' is ambiguous: write one of {', '.join(matches)}.")
    leaves = [name for name, full in names.items() if not any(model.get_submodule(full).children())]
    close = nearest(layer, [*names, *(name.rpartition(".")[2] for name in names)])
    hint = f"did you mean '{close[0]}'? " if close else ""
    listed = ", ".join(leaves[:60]) + (", ..." if len(leaves) > 60 else "")
    raise VaexError(f"Layer '{layer}' does not exist in {type(model).__name__}: {hint}valid names are {listed}.")


@contextmanager
def capture(model: nn.Module, names: Sequence[str], cut: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the layers ``names`` while the body runs a forward pass; leaves no hook behind.

    ``cut=True`` starts the graph at the captured layer: what lies before it runs as it would under
    ``no_grad``, and the activation is a leaf that requires gradients. Without it an activation is such a leaf only
    where no graph leads to it (all is frozen before it) and gradients are on.

    Raises:
        VaexError: for an unknown layer, one that runs twice, or one whose output is not a tensor of floats.
    """
    kept: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:  # noqa: ARG001
            if not isinstance(output, Tensor) or not output.is_floating_point():
                kind = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
                raise VaexError(
                    f"Layer '{name}' returns a {kind}, not a tensor of floats; choose another layer, or one inside it."
                )
            if name in kept:
                raise VaexError(
                    f"Layer '{name}' runs more than once in a forward pass, so no single activation is its own; "
                    "choose a layer that runs once, or give each call its own module."
                )
            if cut:
                torch.set_grad_enabled(True)  # undone by the caller's grad-mode context
            if cut and any(output is given for given in args) and not output._is_view():
                # in-place: the model may read the input again, which is the output
                kept[name] = output.detach().clone().requires_grad_()
                return output.copy_(kept[name])
            if cut or (torch.is_grad_enabled() and not output.requires_grad):
                output = output.detach().requires_grad_()
            kept[name] = output
            copy: Tensor = output.clone()  # what follows works on it: an in-place ReLU would overwrite what is kept
            return copy

        return hook

    with ExitStack() as stack:
        for name in dict.fromkeys(names):
            module = model.get_submodule(resolve_layer(model, name))
            if isinstance(module, torch.jit.ScriptModule):
                raise VaexError(
                    f"Layer '{name}' is scripted or traced by torch.jit and cannot be read; choose a layer outside of "
                    "it, or put the nn.Module that it was made from in its place."
                )
            stack.callback(module.register_forward_hook(hook_for(name)).remove)
        yield kept


def default_layer(
    model: nn.Module, forward: Callable[[Tensor], Any], code: Callable[[Any], Tensor], image: Tensor
) -> str:
    """Return the last convolution in call order that leads to the code, has more than one cell and is not the code.

    ``image`` is one probe image (1, C, H, W); ``code`` picks the code out of what ``forward`` returns.

    Raises:
        VaexError: when no convolution qualifies.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []
    mixed: list[tuple[Tensor, Tensor]] = []  # what a 1 x 1 convolution returns, and of what it mixes the channels

    def hook_for(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            torch.set_grad_enabled(True)  # as in `capture`: the graph begins at the first convolution
            output = output if output.requires_grad else output.detach().requires_grad_()
            calls.append((name, output, output.clone()))
            if args and set(getattr(module, "kernel_size", ())) == {1}:
                mixed.append((calls[-1][2], args[0]))
            return calls[-1][2]

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, CONVOLUTIONS):
                stack.callback(module.register_forward_hook(hook_for(name)).remove)
        stack.enter_context(torch.no_grad())
        mean = code(forward(image))
    check_recorded(mean)
    paths: Sequence[Tensor | None] = [None] * len(calls)
    if mean.requires_grad:
        outputs = [output for _, output, _ in calls]
        paths = torch.autograd.grad(mean, outputs, torch.ones_like(mean), allow_unused=True)
    codes = {_storage(mean)}
    for result, source in reversed(mixed):  # channels mixed into the code: its map would be the code itself
        codes |= {_storage(source)} if _storage(result) in codes else set()
    names = [name for name, _, _ in calls]
    for known in (codes, {_storage(mean)}):
        for (name, output, passed_on), path in zip(reversed(calls), reversed(paths), strict=True):
            spatial = output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1 and len(output) == len(image)
            if spatial and path is not None and _storage(passed_on) not in known and names.count(name) == 1:
                return name
    raise VaexError(
        f"{type(model).__name__} has no convolution before its code with more than one cell; name a layer (layer=...)."
    )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
