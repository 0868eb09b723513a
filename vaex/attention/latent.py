"""`latent_attention`: one map per latent of any VAE, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from vaex.attention.gradients import target_gradients
from vaex.attention.layers import capture, default_layer
from vaex.attention.methods import method_named, rectifier_named
from vaex.attention.outputs import code_of
from vaex.attention.targets import Reduce, target_values
from vaex.errors import VaexError, unknown


def attention_maps(
    activation: Tensor,
    targets: Tensor,
    method: str = "grad_cam",
    rectify: str = "relu",
    chunk: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Return the maps of ``targets`` (B, T) over the cells of ``activation`` (B, K, h, w): (B, T, h, w).

    For losses: the activation comes from ``vae(x, keep=(layer,)).activations`` and ``create_graph=True`` keeps the
    second-order gradient.
    """
    combine, rectifier = method_named(method), rectifier_named(rectify)
    parts = [
        rectifier(combine(activation, gradient)).transpose(0, 1)
        for gradient in target_gradients(targets, activation, chunk, create_graph)
    ]
    return torch.cat(parts, dim=1)


def resize_maps(maps: Tensor, size: str | tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Bring maps (B, T, h, w) to ``size``: "input" (bilinear), "layer" (as they are) or a pair of pixels."""
    if size == "layer":
        return maps
    if isinstance(size, str) and size != "input":
        raise unknown("map size", size, ["input", "layer", "(H, W)"])
    pixels = image_size if isinstance(size, str) else tuple(size)
    return F.interpolate(maps, size=pixels, mode="bilinear", align_corners=False)


def encoding(model: nn.Module) -> Callable[[Tensor], Any]:
    """Return what maps images to a code: the model's ``encode`` where it has one, else the model itself."""
    encode = getattr(model, "encode", None)
    return encode if callable(encode) else model


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _is_compiled(model: nn.Module) -> bool:
    return any(getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod") for module in model.modules())


def latent_attention(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    *,
    latents: Sequence[int] | None = None,
    method: str = "grad_cam",
    target: str | Callable[[Any], Tensor] = "mean",
    rectify: str = "relu",
    reduce: Reduce = "sum",
    size: str | tuple[int, int] = "input",
    chunk: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Return where the image raises each target: maps (B, T, H, W) in units of the target, >= 0 when rectified.

    ``model`` is any module whose ``encode``, or else whose call, maps images (B, C, H, W) to a code (see
    `vaex.attention.outputs.code_of`). With the defaults T = D and map i is ReLU(sum_k alpha_k A_k), alpha_k the
    spatial mean of d mean_i / d A_k, bilinear to (H, W). ``target="sum", rectify="abs"`` is the official code's map
    up to the scale of its gradient. The call runs in evaluation mode and fp32 (or the parameters' own precision),
    works under ``no_grad`` and ``inference_mode``, and leaves no hook, gradient or changed flag behind; a map never
    depends on the other images of the batch.

    ``create_graph=True`` keeps training mode, precision and graph as they are, for losses.

    Source: Liu et al., "Towards Visually Explaining Variational Autoencoders", CVPR 2020, Eq. 1-3.
    Differs: the paper differentiates a sampled z; the default is its mean, as in the official code.

    Raises:
        VaexError: for an unknown layer, method, target or latent; a layer without spatial axes, that runs twice or has
            no gradient path to the target; batch-norm in training mode with ``create_graph``.
    """
    if images.dim() != 4:
        raise VaexError(f"Images must be (B, C, H, W), got {tuple(images.shape)}.")
    if chunk is not None and chunk < 1:
        raise VaexError(f"chunk must be at least 1, got {chunk}.")
    method_named(method), rectifier_named(rectify)  # names are checked before anything is computed
    encode = encoding(model)
    image_size = (images.shape[-2], images.shape[-1])
    with ExitStack() as stack:
        if create_graph:
            _refuse_training_batch_norm(model)
            stack.enter_context(torch.enable_grad())
        else:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(images.device.type, enabled=False))
            stack.enter_context(_evaluation(model))
            parameter = next((p for p in model.parameters() if p.is_floating_point()), images)
            images = images.detach().clone().to(parameter.dtype)  # a clone: inference tensors carry no graph
        if _is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if layer is None:
            layer = default_layer(model, encode, lambda output: code_of(output).mean, images[:1].detach())
        with capture(model, (layer,), cut=not create_graph) as kept:
            output = encode(images)
            activation = _spatial(kept, layer)
            targets = target_values(output, target, latents, reduce)
            if targets.shape[0] != images.shape[0]:
                raise VaexError(f"A target must return (B, T) with B = {images.shape[0]}, got {tuple(targets.shape)}.")
            maps = attention_maps(activation, targets, method, rectify, chunk, create_graph)
        if not create_graph:
            maps = maps.detach()
        return resize_maps(maps, size, image_size)


def _spatial(kept: dict[str, Tensor], layer: str) -> Tensor:
    if layer not in kept:
        raise VaexError(f"Layer '{layer}' did not run when the images were encoded; choose a layer of the encoder.")
    activation = kept[layer]
    if activation.dim() != 4:
        raise VaexError(
            f"Layer '{layer}' gives {tuple(activation.shape)}, but a map needs an activation (B, K, h, w); "
            "choose a convolution or the activation behind one."
        )
    return activation


def _refuse_training_batch_norm(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise VaexError(
                f"Batch-norm layer '{name}' in training mode couples the images of a batch, so a map for a loss would "
                "depend on its neighbours; call .eval() on it, or use norm=group."
            )
