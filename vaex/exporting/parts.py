"""What can be exported, as pure functions of one tensor: what `vaex.explain` computes, gradients written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.image_methods import ImageMethod
from vaex.attention.isolation import undisturbed
from vaex.attention.latent import check_options, latent_attention
from vaex.attention.layers import default_layer, resolve_layer
from vaex.attention.maps import resize_maps
from vaex.attention.methods import METHODS, method_named, rectifier_named
from vaex.attention.target import Target
from vaex.attention.targets import target_named
from vaex.attention.values import over_cells, target_values
from vaex.errors import VaexError, unknown
from vaex.explanation import score_only
from vaex.exporting.inputs import example_input, prepared
from vaex.networks import VAE
from vaex.scores import Evidence, score_images, score_named
from vaex.scores.evidence import Statement, stated
from vaex.scores.registry import ScoreLike
from vaex.types import Posterior

PARTS: dict[str, tuple[str, ...]] = {
    "encoder": ("mean", "logvar"),  # (B, D) each
    "decoder": ("reconstruction",),  # (B, C, H, W) of codes (B, D)
    "reconstruction": ("reconstruction",),  # (B, C, H, W)
    "attention": ("maps",),  # (B, T, H, W)
    "score": ("score_map", "score"),  # (B, 1, H, W), (B,); with a threshold `anomalous` (B,)
}
"""What can be exported, and the names of its outputs."""

INPUTS = ("float", "uint8")


@dataclass(frozen=True)
class Request:
    """What to export: a name of `PARTS`, how the images come in, and what is asked of them.

    ``pixels`` is "float" for images (B, C, H, W) in [0, 1] or "uint8" for (B, H, W, C) in 0 to 255; ``image_size`` is
    the size (H, W) of images that are resized inside (bilinear, not smoothed before), None for that of the model.
    ``options`` are those of `vaex.attention.latent_attention` with its ``layer``; above ``threshold`` a score is
    anomalous, and so is one that is no number, and an image of whose score map more than half lies above ``scene``
    (`vaex.scores.thresholds.scene_limit`; None: not looked at).

    Raises:
        VaexError: for an unknown part, input or attention option, or sizes and thresholds that are none.
    """

    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    score: ScoreLike = "attention"
    threshold: Any = None
    pixels: str = "float"
    image_size: tuple[int, int] | None = None
    scene: float | None = None

    def __post_init__(self) -> None:
        if self.what not in PARTS:
            raise unknown("part to export, what", str(self.what), PARTS)
        if self.pixels not in INPUTS:
            raise unknown("input of an export", str(self.pixels), INPUTS)
        check_options(self.options)
        if self.what == "score" and "model" in (score := score_named(self.score)).reads:
            hint = "; give its maps as attention.target=... and so on" if score.name == "attention" else ""
            raise VaexError(f"score={score.known_as} runs the model again for each image and is not exported{hint}.")
        if self.threshold is not None and (isinstance(self.threshold, bool) or not isinstance(self.threshold, Real)):
            raise VaexError(f"threshold must be a number or null, got {self.threshold!r}.")
        size = self.image_size
        if size is not None and (
            len(size) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in size)
        ):
            raise VaexError(f"image_size must be [height, width] in whole pixels, got {list(size)}.")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        judged = self.what == "score" and self.threshold is not None
        return (*PARTS[self.what], "anomalous") if judged else PARTS[self.what]

    @property
    def entry(self) -> str:
        """Name of the input."""
        return "code" if self.what == "decoder" else "image"

    @property
    def has_maps(self) -> bool:
        """Whether attention maps are computed."""
        return self.what == "attention" or (self.what == "score" and "maps" in score_named(self.score).reads)


@dataclass(frozen=True)
class Plan:
    """How maps are computed: full name of the layer, number of targets, and whether one pass holds all of them.

    ``repeat`` puts a copy of the activation per target behind the layer, so that one plain backward gives all
    gradients; it needs that nothing bypasses the layer. Otherwise the graph has one backward per target.
    """

    layer: str
    targets: int
    repeat: bool


def eager_outputs(model: VAE, request: Request, images: Tensor) -> tuple[Tensor, ...]:
    """Return what `vaex.explain` and the model itself say of the input of an export: what its file must reproduce."""
    with undisturbed(model, images):
        pixels = prepared(model, request, images)
    if request.what == "attention":
        return (latent_attention(model, pixels, **request.options),)
    if request.what == "score":
        return judged(request, *score_only(model, pixels, score=request.score, **request.options))
    with undisturbed(model, pixels):
        return _without_maps(model, request, pixels)


def judged(request: Request, score_map: Tensor, score: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of a score, with ``anomalous`` (B,) where there is a threshold."""
    if request.threshold is None:
        return score_map, score
    anomalous = torch.logical_not(score <= request.threshold)
    if request.scene is not None:
        pixels = score_map.flatten(1)
        anomalous = anomalous | ((pixels > request.scene).sum(1) > pixels.shape[1] // 2)  # as its median lies above
    return score_map, score, anomalous


def planned(model: VAE, request: Request) -> Plan | None:
    """Return how the maps of ``request`` are computed in a graph, None where there are none.

    Raises:
        VaexError: as `latent_attention`; for a method that looks at the image again, or several layers.
    """
    if not request.has_maps:
        return None
    options = dict(request.options)
    method, layer = method_named(options.get("method", "grad_cam")), options.get("layer")
    if isinstance(method, ImageMethod):
        raise VaexError(
            f"attention.method={options['method']} takes several passes over the image and is not exported; choose "
            f"{', '.join(METHODS)}."
        )
    if layer is not None and not isinstance(layer, str):
        raise VaexError(f"An export reads one layer, got attention.layer={layer}; name one layer.")
    images = prepared(model, request, example_input(model, request, 2))
    expected = latent_attention(model, images, **options)
    if layer is None:
        with undisturbed(model, images[:1]) as probe:
            layer = default_layer(model, model.encode, lambda posterior: posterior.mean, probe)
    plan = Plan(resolve_layer(model, layer), expected.shape[1] * _draws(request), repeat=True)
    try:
        with undisturbed(model, images):
            maps = maps_and_posterior(model, images, request, plan)[0]
        alike = maps.shape == expected.shape and torch.allclose(maps, expected, rtol=1e-3, atol=1e-6)
    except RuntimeError:  # a shortcut around the layer has another batch size
        alike = False
    return plan if alike else Plan(plan.layer, plan.targets, repeat=False)


def _draws(request: Request) -> int:
    target = target_named(request.options.get("target", "mean"))
    return target.draws if isinstance(target, Target) else 1


def maps_and_posterior(model: VAE, pixels: Tensor, request: Request, plan: Plan) -> tuple[Tensor, Posterior]:
    """Return maps (B, T, H, W) and posterior of one encoding; every operation of the gradient can be traced."""
    options, count = request.options, plan.targets
    copies = count if plan.repeat else 1
    kept: list[tuple[Tensor, Tensor]] = []

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(0).expand(copies, *tensor.shape).flatten(0, 1) if copies > 1 else tensor

    def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        torch.set_grad_enabled(True)  # undone by no_grad below: what follows the layer is differentiated
        leaf = repeated(output.detach()).detach().requires_grad_()
        kept.append((output.detach(), leaf))
        return leaf.clone()  # an in-place ReLU would overwrite the leaf

    handle = model.get_submodule(plan.layer).register_forward_hook(cut)
    try:
        with torch.no_grad():
            posterior = model.encode(pixels)
    finally:
        handle.remove()
    ((activation, leaf),) = kept
    with torch.enable_grad():
        values = target_values(
            posterior, options.get("target", "mean"), options.get("latents"), options.get("reduce", "sum"), model,
            repeated(pixels),
        )  # fmt: skip
        if plan.repeat:
            own = values.reshape(count, -1, count) * torch.eye(count)[:, None]  # copy t counts for target t alone
            gradients = torch.autograd.grad(own.sum(), leaf)[0].reshape(count, *activation.shape)
        else:
            columns = [values[:, t].sum() for t in range(count)]
            gradients = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in columns])
    rectify: str = options.get("rectify", "relu")
    with torch.no_grad():
        combine: Any = method_named(options.get("method", "grad_cam"))
        maps = combine(activation, gradients)
        maps = (maps if rectify == "abs" else rectifier_named(rectify)(maps)).transpose(0, 1)
        maps = resize_maps(maps, options.get("size", "input"), (int(pixels.shape[-2]), int(pixels.shape[-1])))
        maps = maps.abs() if rectify == "abs" else maps  # as latent_attention does: at the image's size
        maps = maps.unflatten(1, (draws, -1)).mean(1) if (draws := _draws(request)) > 1 else maps
        parts = (part.detach().reshape(copies, -1, *part.shape[1:])[0] for part in posterior)
        return maps, Posterior(*parts)


def graph_outputs(model: VAE, request: Request, plan: Plan | None, images: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of an export for its input, by operations that can be traced."""
    pixels = prepared(model, request, images)
    if request.what != "score":
        return (
            _without_maps(model, request, pixels)
            if plan is None
            else maps_and_posterior(model, pixels, request, plan)[:1]
        )
    maps, posterior = (None, None) if plan is None else maps_and_posterior(model, pixels, request, plan)
    output: Any = None
    if posterior is None or hasattr(model, "raw_features"):
        output = model(pixels)
        posterior = output.posterior
    mean = posterior.mean
    statement = Statement(model.decode(mean).mean, None, None) if output is None else stated(output)
    kl, code = model.prior.kl(posterior, mean), over_cells(mean, request.options.get("reduce", "sum"))
    raw = model.raw_features(pixels) if "raw" in score_named(request.score).reads else None  # type: ignore[operator]
    known = (kl, code, model.calibration, *statement[1:], raw, model, mean if mean.dim() == 4 else None)
    return judged(request, *score_images(request.score, Evidence(pixels, maps, statement.reconstruction, *known)))


def _without_maps(model: VAE, request: Request, pixels: Tensor) -> tuple[Tensor, ...]:
    if request.what == "encoder":
        return tuple(model.encode(pixels))
    if request.what == "decoder":
        return (model.decode(pixels).mean,)
    return (model.decode(model.encode(pixels).mean).mean,)
