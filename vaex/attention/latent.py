"""`latent_attention`: one map per latent of any VAE, in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.image_methods import ImageMethod, View
from vaex.attention.isolation import eager, original, refuse_coupling, undisturbed
from vaex.attention.layers import capture, default_layer
from vaex.attention.maps import attention_maps, resize_maps
from vaex.attention.methods import method_named, rectifier_named
from vaex.attention.outputs import code_of, encoding, reconstruction_of
from vaex.attention.target import Reduce, Target
from vaex.attention.targets import TargetLike, target_named, whole_numbers
from vaex.attention.values import target_values
from vaex.errors import VaexError, unknown

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(0),
    "product": lambda maps: maps.prod(0).abs().pow(1 / len(maps)) * maps.prod(0).sign(),
}
"""How maps of several layers (L, B, T, H, W), each scaled to a largest |value| of 1, become one."""


def latent_attention(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    latents: Sequence[int] | None = None,
    method: str | Mapping[str, Any] | ImageMethod = "grad_cam",
    target: TargetLike = "mean",
    rectify: str = "relu",
    reduce: Reduce = "sum",
    size: str | Sequence[int] = "input",
    chunk: int | None = None,
    create_graph: bool = False,
    fuse: str = "mean",
) -> Tensor:
    """Return where the image raises each target: maps (B, T, H, W) in units of the target, >= 0 when rectified.

    ``model`` is any module whose ``encode``, or else whose call, maps images (B, C, H, W) to a code (see
    `vaex.attention.outputs.code_of`). With the defaults T = D and map i is ReLU(sum_k alpha_k A_k), alpha_k the
    spatial mean of d mean_i / d A_k, bilinear to (H, W). ``target="sum", rectify="abs"`` is the official code's map
    up to the scale of its gradient; its absolute value is taken after the resizing, as there.

    ``method`` and ``target`` are names (`vaex.attention.methods`, `vaex.attention.targets`), mappings of a name and
    parameters such as ``{"name": "sample", "n": 8}``, or objects. Several layers are fused (`FUSIONS`): each one's map
    is scaled to a largest absolute value of 1, so the result has no unit. Methods that read the image alone ignore
    ``layer``.

    The call runs in evaluation mode and fp32 (or the parameters' own precision), works under ``no_grad`` and
    ``inference_mode``, and leaves no hook, gradient, changed flag or random draw behind. A map never depends on the
    other images of the batch: an image with NaN spoils its own maps alone, and a warning names it.

    ``create_graph=True`` keeps training mode, precision and graph as they are, for losses.

    Source: Liu et al., "Towards Visually Explaining Variational Autoencoders", CVPR 2020, Eq. 1-3.
    Differs: the paper differentiates a sampled z; the default is its mean, as in the official code.

    Raises:
        VaexError: for an unknown layer, method, target or latent; a layer without spatial axes, that runs twice or has
            no gradient path to the target; batch-norm that takes its statistics from the batch.
    """
    if not isinstance(model, nn.Module):
        raise VaexError(f"A model must be an nn.Module, got {type(model).__name__}; pass the module, not its method.")
    call = _Call(
        original(model),
        images,
        latents,
        method_named(method),
        target_named(target),
        rectify,
        reduce,
        chunk,
        create_graph,
    )
    rectifier_named(rectify)  # options are checked before anything is computed
    if latents is not None:
        whole_numbers("latents", latents)
    _check_shapes(images, size)
    if fuse not in FUSIONS:
        raise unknown("fusion of layers", str(fuse), FUSIONS)
    if layer is None or isinstance(layer, str):
        return call.sized(layer, size)
    if not isinstance(layer, Sequence) or not layer or not all(isinstance(name, str) for name in layer):
        raise VaexError(f"layer must be a name or a list of names, got {layer!r}.")
    if size == "layer":
        raise VaexError("Maps of several layers have no common cells; choose size='input' or a pair (H, W).")
    with torch.set_grad_enabled(create_graph):
        return FUSIONS[fuse](torch.stack([_to_one(call.sized(name, size)) for name in layer]))


def _to_one(maps: Tensor) -> Tensor:
    most = maps.abs().amax((-2, -1), keepdim=True)
    return maps / torch.where(most > 0, most, 1.0)


@dataclass(frozen=True)
class _Call:
    """One call's options, checked."""

    model: nn.Module
    images: Tensor
    latents: Sequence[int] | None
    method: Any
    target: Target | Callable[[Any], Tensor]
    rectify: str
    reduce: Reduce
    chunk: int | None
    create_graph: bool

    def maps(self, layer: str | None) -> Tensor:
        """Return the maps over the cells of ``layer``, (B, S T, h, w); all but abs are rectified."""
        late = "none" if self.rectify == "abs" else self.rectify
        with ExitStack() as stack:
            pixels = self.images
            if self.create_graph:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(eager())
            else:
                pixels = stack.enter_context(undisturbed(self.model, self.images))
            refuse_coupling(self.model)
            encode = encoding(self.model)
            reads_image = isinstance(self.method, ImageMethod)
            if layer is None and not (reads_image and self.method.pixels):
                with undisturbed(self.model, self.images[:1]) as probe:
                    layer = default_layer(self.model, encode, self._probed, probe)
            if reads_image:
                read, without = partial(self._kept, pixels, layer), partial(self._without, pixels)
                view = View(pixels, self.targets, read, without, self.chunk, self.create_graph)
                return rectifier_named(late)(self.method.maps(view))
            assert layer is not None  # noqa: S101 - for the type checker: found above
            with capture(self.model, (layer,), cut=not self.create_graph) as kept:
                output = encode(pixels)
                activation = _spatial(kept, layer)
                with torch.enable_grad():  # the encoder may have left no_grad on its way out
                    targets = self._values(output, pixels)
                return attention_maps(activation, targets, self.method, late, self.chunk, self.create_graph)

    @property
    def draws(self) -> int:
        """Number of draws whose maps are averaged."""
        return self.target.draws if isinstance(self.target, Target) else 1

    def sized(self, layer: str | None, size: str | Sequence[int]) -> Tensor:
        """Return the rectified maps of ``layer`` at ``size``, averaged over draws, (B, T, H, W)."""
        maps = self.maps(layer)
        with torch.set_grad_enabled(self.create_graph):
            maps = resize_maps(maps, size, (self.images.shape[-2], self.images.shape[-1]))
            if self.rectify == "abs":  # the paper rectifies at the layer's size, the official code at the image's
                maps = maps.abs()
            return maps if self.draws == 1 else maps.unflatten(1, (self.draws, -1)).mean(1)

    def targets(self, images: Tensor) -> Tensor:
        """Return the targets of other images, (B, S T)."""
        return self._values(encoding(self.model)(images), images)

    def _probed(self, output: Any) -> Tensor:
        # a callable may read an output in which no code is found
        values = code_of(output).mean if isinstance(self.target, Target) else self.target(output)
        return torch.as_tensor(values)

    def _values(self, output: Any, images: Tensor) -> Tensor:
        values = target_values(output, self.target, self.latents, self.reduce, self.model, images)
        if values.shape[0] != len(images):
            raise VaexError(f"A target must return (B, T) with B = {len(images)}, got {tuple(values.shape)}.")
        return values

    def _kept(self, pixels: Tensor, layer: str | None) -> Tensor:
        assert layer is not None  # noqa: S101 - for the type checker: methods that read it have found one
        with torch.no_grad(), capture(self.model, (layer,), cut=True) as kept:
            encoding(self.model)(pixels)
        return _spatial(kept, layer).detach()

    def _without(self, pixels: Tensor, position: int) -> Tensor:
        """Return ``pixels`` decoded with the latent of one map set to 0."""
        if not isinstance(self.target, Target) or self.target.total or self.target.single or self.draws > 1:
            raise VaexError(
                "baseline=counterfactual sets one latent to 0, so it needs a target of one latent, such as mean, "
                "without draws; choose baseline=black or blurred."
            )
        latent = position if self.latents is None else self.latents[position]
        with torch.no_grad():
            mean = code_of(encoding(self.model)(pixels)).mean.clone()
            mean[:, latent] = 0
            decoded = reconstruction_of(self.model, mean, pixels.shape)
        if decoded is None:
            raise VaexError(
                "baseline=counterfactual needs a model with a decoder: decode(z) that returns images; choose "
                "baseline=black or blurred."
            )
        return decoded


def _check_shapes(images: Tensor, size: str | Sequence[int]) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) == 0:
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise VaexError(f"Images must be a tensor (B, C, H, W) with B of at least 1, got {came}.")
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
    spoilt = (~activation.detach().isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if spoilt:
        warnings.warn(
            f"Layer '{layer}' is not finite for {len(spoilt)} of {len(activation)} images (positions {spoilt[:8]}): "
            "their maps mean nothing; check these images for NaN, and the weights.",
            stacklevel=2,
        )
    return activation
