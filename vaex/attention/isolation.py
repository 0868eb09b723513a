"""Running a model for a look at it, inside any training loop, and leaving it as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vaex.errors import VaexError


def original(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile(module)``, or the module itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def eager() -> AbstractContextManager[None]:
    """Return a context in which compiled modules run uncompiled: compiled code allows no batched or double backward."""
    # Without its compiler imported nothing can be compiled, and the import takes seconds
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def undisturbed(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Run the body in evaluation mode, full precision, eagerly and without graph, also inside inference mode.

    Yields a copy of ``images`` (B, C, H, W) in the precision of the model's parameters, free of any graph. Afterwards
    the training flag of every module and the random stream are what they were, whatever the body drew or raised.
    """
    flags = [(module, module.training) for module in model.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(images.device.type, enabled=False))
        stack.enter_context(torch.random.fork_rng([images.device] if images.device.type == "cuda" else []))
        stack.enter_context(eager())
        try:
            model.eval()
            parameter = next((p for p in model.parameters() if p.is_floating_point()), images)
            yield images.detach().clone().to(parameter.dtype)  # a clone: inference tensors take part in no graph
        finally:
            for module, training in flags:
                module.training = training


def refuse_coupling(model: nn.Module) -> None:
    """Refuse a model in which batch-norm couples the images of a batch.

    Raises:
        VaexError: naming the layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            mode = "in training mode" if module.training else "without running statistics"
            raise VaexError(
                f"Batch-norm layer '{name}' {mode} couples the images of a batch, so a map would depend on its "
                "neighbours; call .eval() on a layer that keeps running statistics, or use norm=group."
            )
