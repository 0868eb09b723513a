"""From a model and its maps to what `vaex.metrics.faithfulness` asks: the one path of commands and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.image_methods import blurred
from vaex.attention.isolation import original, undisturbed
from vaex.attention.latent import latent_attention
from vaex.attention.outputs import code_of, encoding, reconstruction_of
from vaex.attention.target import Target
from vaex.attention.targets import TargetLike, target_named
from vaex.attention.values import target_values
from vaex.errors import VaexError, unknown
from vaex.explanation import evidence_of
from vaex.metrics.faithfulness.decoding import decoded_response, without_latents
from vaex.metrics.faithfulness.question import Answer, Question, Settings
from vaex.metrics.faithfulness.randomising import cascade, weighted_modules
from vaex.metrics.faithfulness.removal import Values

FILLS = ("without", "reconstruction", "blurred", "black")
"""What pixels are replaced with: the decoded image without the latent, the reconstruction, a blurred image, 0."""


def attention_of(model: nn.Module, images: Tensor, layer: str | Sequence[str] | None, **options: Any) -> Tensor:
    """Return the maps (B, T, H, W) of ``images`` (B, C, H, W) as `latent_attention`, also those of a feature VAE."""
    if not hasattr(original(model), "raw_features"):
        return latent_attention(model, images, layer, **options)
    maps = evidence_of(model, images, layer, **options)[0].maps
    assert maps is not None  # noqa: S101 - for the type checker: they were asked for
    return maps


def values_of(
    model: nn.Module,
    images: Tensor,
    target: TargetLike = "mean",
    latents: Sequence[int] | None = None,
    reduce: Any = "sum",
) -> Values:
    """Return what takes other versions of ``images`` (B, C, H, W) to the values (B, T) that their maps are of.

    Values of draws are averaged; a likelihood is that of ``images`` themselves.
    """
    whole, found = original(model), target_named(target)
    draws = found.draws if isinstance(found, Target) else 1

    def values(seen: Tensor) -> Tensor:
        with undisturbed(whole, seen) as pixels:
            result = target_values(encoding(whole)(pixels), found, latents, reduce, whole, images.to(pixels))
        return result if draws == 1 else result.unflatten(1, (draws, -1)).mean(1)

    return values


def _decoder(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return what takes codes to images, None where the model has no decoder of images."""
    with undisturbed(model, images[:1]) as pixels:
        mean = code_of(encoding(model)(pixels)).mean
        if reconstruction_of(model, mean, pixels.shape) is None:
            return None

    def decode(codes: Tensor) -> Tensor:
        with undisturbed(model, codes) as given:
            decoded = reconstruction_of(model, given, (len(codes), *images.shape[1:]))
        assert decoded is not None  # noqa: S101 - for the type checker: tried above
        return decoded.float()

    return decode


def codes_of_latents(model: nn.Module, images: Tensor) -> Tensor:
    """Return the codes of ``images``: means (B, D), or a latent grid (B, D, h, w)."""
    with undisturbed(original(model), images) as pixels:
        return code_of(encoding(original(model))(pixels)).mean.float()


def reconstructed(model: nn.Module, images: Tensor) -> Tensor | None:
    """Return the images (B, C, H, W) that the model decodes from their own codes; None without a decoder of images."""
    decode = _decoder(original(model), images)
    return None if decode is None else decode(codes_of_latents(model, images))


def anomalous(items: Mapping[str, Any]) -> Tensor:
    """Return which images (B,) of a batch are labelled anomalous, as bool; none where it has no labels."""
    if "label" in items:
        return torch.as_tensor(items["label"]) > 0
    return torch.zeros(len(items["image"]), dtype=torch.bool)


def latent_question(
    model: nn.Module,
    images: Tensor,
    latents: Sequence[int] | None = None,
    target: TargetLike = "mean",
    *,
    fill: str | None = None,
    masks: Tensor | None = None,
    step: float = 1.0,
    settings: Settings | None = None,
    reduce: Any = "sum",
) -> Question:
    """Return what to ask of maps of ``target`` for ``latents`` (None: all) of ``images`` (B, C, H, W).

    ``fill`` is one of `FILLS`; None: ``without`` for maps of single latents of a model that decodes images, else its
    reconstruction, else blurred. ``step`` is that of the decoder's response; ``masks`` are those of `Question`.

    Raises:
        VaexError: for an unknown fill, or one that the model cannot draw.
    """
    if fill is not None and fill not in FILLS:
        raise unknown("fill of the faithfulness measures", fill, FILLS)
    whole = original(model)
    values = values_of(whole, images, target, latents, reduce)
    count, codes, decode = values(images).shape[1], codes_of_latents(whole, images), _decoder(whole, images)
    found = target_named(target)
    single = isinstance(found, Target) and not (found.total or found.single) and codes.dim() == 2
    numbers = list(range(count)) if latents is None else list(latents)
    if fill is None:
        fill = "blurred" if decode is None else "without" if single else "reconstruction"
    if fill in FILLS[:2] and (decode is None or (fill == "without" and not single)):
        needed = "a model that decodes images" + (" and maps of single latents" if fill == "without" else "")
        raise VaexError(f"fill={fill} needs {needed}; choose fill=blurred, or null for what suits.")
    if fill == "without" and decode is not None:
        filled = without_latents(decode, codes, numbers)
    elif fill == "reconstruction" and decode is not None:
        filled = decode(codes)
    else:
        filled = blurred(images) if fill == "blurred" else torch.zeros_like(images)
    response = decoded_response(decode, codes, numbers, step) if single and decode is not None else None
    return Question(images, count, values, filled, masks, response, settings or Settings())


def target_modules(model: nn.Module, images: Tensor, target: TargetLike = "mean") -> list[str]:
    """Return the names of the modules whose trained parameters decide ``target``, from the code down to the image.

    ``images`` (B, C, H, W), of which one is looked at. Those of the decoder are not among them, nor is the head of
    log-variances where the target is a mean.
    """
    whole = original(model)
    parameters = {name: parameter for name, parameter in whole.named_parameters() if parameter.requires_grad}
    with undisturbed(whole, images[:1]) as pixels, torch.enable_grad():
        result = target_values(encoding(whole)(pixels), target, None, "sum", whole, pixels)
        slopes = torch.autograd.grad(result.sum(), list(parameters.values()), allow_unused=True)
    used = {name.rpartition(".")[0] for name, slope in zip(parameters, slopes, strict=True) if slope is not None}
    return [name for name in weighted_modules(whole) if name in used]


def latent_answer(
    model: nn.Module,
    images: Tensor,
    explain: Callable[[nn.Module, Tensor], Tensor],
    *,
    signed: bool | Tensor = False,
    modules: Sequence[str] = (),
    seed: int = 0,
) -> Answer:
    """Return what a maker of maps says: ``explain(model, images)``, and its maps of noisy images and fresh weights.

    ``signed`` tells that its maps are, or gives those before rectification. ``modules`` are those of the `cascade`,
    drawn with ``seed``; without them nothing is said of fresh weights.
    """
    whole = original(model)

    def randomised() -> Iterator[Tensor]:
        for _, fresh in cascade(whole, modules, seed):
            yield explain(fresh, images)

    maps = explain(whole, images)
    before = signed if isinstance(signed, Tensor) else maps if signed else None
    return Answer(maps, before, lambda seen: explain(whole, seen), randomised() if modules else None)
