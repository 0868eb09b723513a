"""`latent_attention`: one map per latent of any VAE, in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.checks import check_chunk, check_images, check_model, check_recorded, spatial, whole_numbers
from vaex.attention.fusion import FUSIONS
from vaex.attention.image_methods import ImageMethod, View
from vaex.attention.isolation import alone, differentiable, original, single_image, uncoupled, undisturbed
from vaex.attention.layers import capture, default_layer
from vaex.attention.maps import attention_maps, resize_maps
from vaex.attention.methods import LayerMethod, method_named, rectifier_named
from vaex.attention.outputs import code_of, encoding, reconstruction_of
from vaex.attention.target import Reduce, Target
from vaex.attention.targets import TargetLike, target_named
from vaex.attention.values import check_reduce, target_values
from vaex.attention.watch import Watch
from vaex.errors import VaexError, unknown


def latent_attention(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    latents: Sequence[int] | None = None,
    method: str | Mapping[str, Any] | LayerMethod | ImageMethod = "grad_cam",
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
    parameters such as ``{"name": "sample", "n": 8}``, or objects. Several layers are fused (`FUSIONS`): "mean"
    and "product" scale each one's map to a largest absolute value of 1, so the result has no unit and no image is
    brighter than another; "sum" takes the maps as they are. Methods that read the image alone ignore ``layer``.

    The call runs in evaluation mode and the precision of the parameters, works under ``no_grad`` and
    ``inference_mode``, and leaves no hook, gradient, changed flag or random draw behind; threads that share a model
    take turns. Maps are fp32 at least, whatever the weights are. A map never depends on the other images of the batch:
    an image with NaN spoils its own maps alone, and a warning names it.

    ``chunk`` bounds the targets per backward pass (None: a memory budget does); score_cam has no such pass.
    ``create_graph=True`` keeps training mode, precision and graph as they are, for losses.

    Source: Liu et al., "Towards Visually Explaining Variational Autoencoders", CVPR 2020, Eq. 1-3.
    Differs: the paper differentiates a sampled z; the default is its mean, as in the official code.

    Raises:
        VaexError: for an unknown layer, method, target or latent; a layer without spatial axes, that runs twice or has
            no gradient path to the target; batch-norm that takes its statistics from the batch; a scripted or exported
            model.
    """
    check_model(model)
    call = _Call(
        original(model),
        images,
        None if latents is None else whole_numbers("latents", latents),
        method_named(method),
        target_named(target),
        rectify,
        reduce,
        chunk,
        create_graph,
    )
    rectifier_named(rectify)  # options are checked before anything is computed
    check_chunk(chunk)
    check_reduce(reduce)
    check_images(images, size)
    if fuse not in FUSIONS:
        raise unknown("fusion of layers", str(fuse), FUSIONS)
    if layer is None or isinstance(layer, str):
        with alone(call.model):
            return call.sized(layer, size)
    if not isinstance(layer, Sequence) or not layer or not all(isinstance(name, str) for name in layer):
        raise VaexError(f"layer must be a name or a list of names, got {layer!r}.")
    if size == "layer":
        raise VaexError("Maps of several layers have no common cells; choose size='input' or a pair (H, W).")
    with alone(call.model), torch.set_grad_enabled(create_graph):
        return FUSIONS[fuse](torch.stack([call.sized(name, size) for name in layer]))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options by name that `latent_attention` does not take.

    Raises:
        VaexError: for an unknown option; the nearest valid name is told.
    """
    valid = [name for name in inspect.signature(latent_attention).parameters if name not in ("model", "images")]
    for name in options:
        if name not in valid:
            raise unknown("attention option", str(name), valid)


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
        watch = Watch()
        with ExitStack() as stack:
            pixels = self.images
            if self.create_graph:
                stack.enter_context(differentiable(self.model, self.images))
            else:
                pixels = stack.enter_context(undisturbed(self.model, self.images))
            stack.enter_context(uncoupled(self.model))
            stack.enter_context(single_image(self.model, len(pixels)))
            encode = encoding(self.model)
            reads_image = isinstance(self.method, ImageMethod)
            if layer is None and not (reads_image and self.method.pixels):
                with undisturbed(self.model, self.images[:1]) as probe:
                    layer = default_layer(self.model, encode, self._probed, probe)
            if reads_image:
                read, without = partial(self._kept, pixels, layer, watch), partial(self._without, pixels)
                targets = partial(self._targets, pixels.detach(), watch)
                view = View(pixels, targets, read, without, self.chunk, self.create_graph)
                return watch.marked(rectifier_named(late)(self.method.maps(view)))
            assert layer is not None  # noqa: S101 - for the type checker: found above
            with capture(self.model, (layer,), cut=not self.create_graph) as kept:
                output = encode(pixels)
                activation, watch.told = spatial(kept, layer, len(pixels))
                check_recorded(activation)
                with torch.enable_grad():  # the encoder may have left no_grad on its way out
                    values = self._values(output, pixels.detach())
                watch.note(values)
                maps = attention_maps(activation, values, self.method, late, self.chunk, self.create_graph)
                return watch.marked(maps)

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

    def _targets(self, pixels: Tensor, watch: Watch, seen: Tensor) -> Tensor:
        """Return the targets (B, S T) of ``seen``, other images in the place of ``pixels``.

        A likelihood is that of ``pixels``, which are constants: what is asked is how the code explains them.
        """
        output = encoding(self.model)(seen)
        values = self._values(output, pixels)
        watch.note(values)
        if torch.is_grad_enabled() and not values.requires_grad:
            check_recorded(self._probed(output))
        return values

    def _probed(self, output: Any) -> Tensor:
        # a callable may read an output in which no code is found
        values = code_of(output).mean if isinstance(self.target, Target) else self.target(output)
        return torch.as_tensor(values)

    def _values(self, output: Any, images: Tensor) -> Tensor:
        values = target_values(output, self.target, self.latents, self.reduce, self.model, images)
        if values.shape[0] != len(images):
            raise VaexError(f"A target must return (B, T) with B = {len(images)}, got {tuple(values.shape)}.")
        return values

    def _kept(self, pixels: Tensor, layer: str | None, watch: Watch) -> Tensor:
        assert layer is not None  # noqa: S101 - for the type checker: methods that read it have found one
        with torch.no_grad(), capture(self.model, (layer,), cut=True) as kept:
            encoding(self.model)(pixels)
        activation, watch.told = spatial(kept, layer, len(pixels))
        return activation.detach()

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
