"""Running a model for a look at it, inside any training loop, and leaving it as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from vaex.errors import VaexError

_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()
_GUARD = threading.Lock()


def alone(model: nn.Module) -> AbstractContextManager[Any]:
    """Return the lock of ``model``: hooks and training flags are the model's, so one thread looks at a time."""
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


def original(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile(module)``, or the module itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def eager() -> AbstractContextManager[None]:
    """Return a context in which compiled modules run uncompiled: compiled code allows no batched or double backward."""
    # Without its compiler imported nothing can be compiled, and the import takes seconds
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def precision(model: nn.Module, images: Tensor) -> torch.dtype:
    """Return the type of the model's parameters, or of ``images`` where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)


@contextmanager
def undisturbed(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Run the body in evaluation mode, full precision, eagerly and without graph, also inside inference mode.

    Yields a copy of ``images`` (B, C, H, W) in the precision of the model's parameters, free of any graph. Afterwards
    the training flag of every module and the random stream are what they were, whatever the body drew or raised.
    Other threads that look at the same model wait.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(model))
        flags = [(module, module.training) for module in model.modules()]
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(images.device.type, enabled=False))
        stack.enter_context(torch.random.fork_rng([images.device] if images.device.type == "cuda" else []))
        stack.enter_context(eager())
        try:
            model.eval()
            # a clone: inference tensors take part in no graph
            yield images.detach().clone().to(precision(model, images))
        finally:
            for module, training in flags:
                module.training = training


@contextmanager
def differentiable(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Run the body with a graph that can be differentiated twice, in the model's own mode and precision.

    Raises:
        VaexError: inside inference mode, for images made there, and for images of a type that the model does not take.
    """
    if torch.is_inference_mode_enabled() or images.is_inference():
        raise VaexError(
            "create_graph=True needs a graph, and torch.inference_mode records none: call outside of it (a Trainer "
            "takes inference_mode=False), with images that were not made in it."
        )
    # fused attention has no second derivative, its plain form has
    with torch.enable_grad(), eager(), sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        except RuntimeError as error:
            wanted = precision(model, images)
            cast = torch.is_autocast_enabled(images.device.type) and images.dtype in (torch.float16, torch.bfloat16)
            if images.dtype == wanted or cast:
                raise
            raise VaexError(
                f"With create_graph=True images stay {images.dtype}, which a model with weights of {wanted} does not "
                f"take; pass images.to({wanted}), in the range of its training."
            ) from error


def _couples(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def _coupling(name: str, module: nn.Module) -> VaexError:
    mode = "in training mode" if module.training else "without running statistics"
    return VaexError(
        f"Batch-norm layer '{name}' {mode} couples the images of a batch, so a map would depend on its "
        "neighbours; call .eval() on a layer that keeps running statistics, or train with network.norm=group."
    )


def refuse_coupling(model: nn.Module) -> None:
    """Refuse a model in which batch-norm couples the images of a batch.

    Raises:
        VaexError: naming the layer.
    """
    for name, module in model.named_modules():
        if _couples(module):
            raise _coupling(name, module)


@contextmanager
def uncoupled(model: nn.Module) -> Iterator[None]:
    """Refuse, within the body, a batch-norm that couples the images of a batch as soon as it runs.

    Raises:
        VaexError: naming the layer.
    """

    def told(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:  # noqa: ARG001
            if _couples(module):  # a probe may have switched it to evaluation
                raise _coupling(name, module)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if _couples(module):
                stack.callback(module.register_forward_pre_hook(told(name)).remove)
        yield


@contextmanager
def single_image(model: nn.Module, count: int) -> Iterator[None]:
    """Give, within the body, the batch-norms of ``model`` gradients that torch reads rightly for ``count`` images.

    Of one image its backward on the CPU (torch 2.13) takes a gradient laid out in channels_last, where it is batched or
    comes from an einsum, for a contiguous one, and returns wrong numbers without a word.
    """

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG001
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.contiguous())

    with ExitStack() as stack:
        if count == 1:
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    stack.callback(module.register_forward_hook(hook).remove)
        yield
