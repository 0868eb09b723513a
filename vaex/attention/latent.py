"""`latent_attention`: one map per latent of any VAE, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from vaex.attention.gradients import target_gradients
from vaex.attention.isolation import eager, original, undisturbed
from vaex.attention.layers import capture, default_layer
from vaex.attention.methods import method_named, rectifier_named
from vaex.attention.outputs import code_of
from vaex.attention.targets import Reduce, target_values, whole_numbers
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
    second-order gradient; without it the maps carry no graph.
    """
    combine, rectifier = method_named(method), rectifier_named(rectify)
    weighed = activation if create_graph else activation.detach()
    with torch.enable_grad():  # the targets are taken apart within their graph, wherever this is called
        parts = [
            rectifier(combine(weighed, gradient)).transpose(0, 1)
            for gradient in target_gradients(targets, activation, chunk, create_graph)
        ]
    return torch.cat(parts, dim=1)


def resize_maps(maps: Tensor, size: str | Sequence[int], image_size: tuple[int, int]) -> Tensor:
    """Bring maps (B, T, h, w) to ``size``: "input" (bilinear), "layer" (as they are) or a pair of pixels."""
    if size == "layer":
        return maps
    pixels = image_size if size == "input" else [int(side) for side in size]
    return F.interpolate(maps, size=pixels, mode="bilinear", align_corners=False)


def encoding(model: nn.Module) -> Callable[[Tensor], Any]:
    """Return what maps images to a code: the model's ``encode`` where it has one, else the model itself."""
    encode = getattr(model, "encode", None)
    return encode if callable(encode) else model


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
    size: str | Sequence[int] = "input",
    chunk: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Return where the image raises each target: maps (B, T, H, W) in units of the target, >= 0 when rectified.

    ``model`` is any module whose ``encode``, or else whose call, maps images (B, C, H, W) to a code (see
    `vaex.attention.outputs.code_of`). With the defaults T = D and map i is ReLU(sum_k alpha_k A_k), alpha_k the
    spatial mean of d mean_i / d A_k, bilinear to (H, W). ``target="sum", rectify="abs"`` is the official code's map
    up to the scale of its gradient; its absolute value is taken after the resizing, as there.

    The call runs in evaluation mode and fp32 (or the parameters' own precision), works under ``no_grad`` and
    ``inference_mode``, and leaves no hook, gradient, changed flag or random draw behind. A map never depends on the
    other images of the batch: an image with NaN spoils its own maps alone.

    ``create_graph=True`` keeps training mode, precision and graph as they are, for losses.

    Source: Liu et al., "Towards Visually Explaining Variational Autoencoders", CVPR 2020, Eq. 1-3.
    Differs: the paper differentiates a sampled z; the default is its mean, as in the official code.

    Raises:
        VaexError: for an unknown layer, method, target or latent; a layer without spatial axes, that runs twice or has
            no gradient path to the target; batch-norm that takes its statistics from the batch.
    """
    method_named(method), rectifier_named(rectify)  # options are checked before anything is computed
    if layer is not None and not isinstance(layer, str):
        raise VaexError(f"A map is of one layer, got {layer!r}: fusion of several layers comes later; name one layer.")
    if latents is not None:
        whole_numbers("latents", latents)
    _check_shapes(images, size)
    model = original(model)
    encode = encoding(model)
    with ExitStack() as stack:
        pixels = images
        if create_graph:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(eager())
        else:
            pixels = stack.enter_context(undisturbed(model, images))
        _refuse_coupling(model)
        if layer is None:
            with undisturbed(model, images[:1]) as probe:
                layer = default_layer(model, encode, lambda output: code_of(output).mean, probe)
        with capture(model, (layer,), cut=not create_graph) as kept:
            output = encode(pixels)
            activation = _spatial(kept, layer)
            with torch.enable_grad():  # the encoder may have left no_grad on its way out
                targets = target_values(output, target, latents, reduce)
            if targets.shape[0] != len(images):
                raise VaexError(f"A target must return (B, T) with B = {len(images)}, got {tuple(targets.shape)}.")
            # The paper rectifies at the layer's size, the official code takes the absolute value at the image's
            late = rectify == "abs"
            maps = attention_maps(activation, targets, method, "none" if late else rectify, chunk, create_graph)
        maps = resize_maps(maps, size, (images.shape[-2], images.shape[-1]))
        return maps.abs() if late else maps


def _check_shapes(images: Tensor, size: str | Sequence[int]) -> None:
    if images.dim() != 4 or len(images) == 0:
        raise VaexError(f"Images must be (B, C, H, W) with B of at least 1, got {tuple(images.shape)}.")
    if isinstance(size, str):
        if size not in ("input", "layer"):
            raise unknown("map size", size, ["input", "layer", "(H, W)"])
        return
    sides: list[Any] = list(size) if isinstance(size, Sequence) else []
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
        raise VaexError(f"A map size must be input, layer or a pair (H, W) of whole pixels, got {size!r}.")


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


def _refuse_coupling(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            mode = "in training mode" if module.training else "without running statistics"
            raise VaexError(
                f"Batch-norm layer '{name}' {mode} couples the images of a batch, so a map would depend on its "
                "neighbours; call .eval() on a layer that keeps running statistics, or use norm=group."
            )
