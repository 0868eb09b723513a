"""What a score looks at, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from vaex.attention.image_methods import ImageMethod
from vaex.attention.latent import latent_attention
from vaex.attention.methods import method_named
from vaex.types import VAEOutput


class Evidence(NamedTuple):
    """What a score may look at, in fp32; None stands for what the model does not state or nobody asked for."""

    images: Tensor  # (B, C, H, W)
    maps: Tensor | None  # (B, T, H, W)
    reconstruction: Tensor | None  # (B, C, H, W)
    kl: Tensor | None  # (B, D) nats
    mean: Tensor | None = None  # (B, D) posterior means, of a latent grid reduced over its cells
    calibration: Mapping[str, Any] | None = None  # what `vaex.calibrate` fitted; None or empty where nothing was
    features: Tensor | None = None  # (B, K, h, w) what the likelihood of a feature VAE is of
    decoded: Tensor | None = None  # (B, K, h, w) their expectation given z = mean
    raw: Tensor | None = None  # (B, K, h, w) the features before the model whitened them
    model: Any = None  # for scores that run it again
    grid: Tensor | None = None  # (B, D, h, w) posterior means of a latent grid
    known: dict[str, Any] | None = None  # where given, what each score said of it: combinations ask for the same again


class Scored(NamedTuple):
    """``score_map`` (B, 1, H, W) says "anomalous here"; ``score`` (B,) is its one number per image."""

    score_map: Tensor
    score: Tensor


class Statement(NamedTuple):
    """What a likelihood says of one batch: of images, or, with ``features``, of those."""

    reconstruction: Tensor | None  # (B, C, H, W)
    features: Tensor | None  # (B, K, h, w)
    decoded: Tensor | None  # (B, K, h, w)


def stated(output: VAEOutput) -> Statement:
    """Return what the likelihood of a VAE's output is of and expects, in fp32.

    A likelihood of features names them ``target``; one of images has no such attribute.
    """
    target, expected = getattr(output.likelihood, "target", None), output.likelihood.mean.float()
    return Statement(expected, None, None) if target is None else Statement(None, target.float(), expected)


def maps_of(
    model: nn.Module, images: Tensor, raw: Tensor | None, layer: str | Sequence[str] | None = None, **options: Any
) -> Tensor:
    """Return the attention maps (B, T, H, W) of ``images`` in fp32.

    Where the features before the model whitened them are known, ``raw`` (B, K, h, w), the network that makes them is
    not run again, unless the method changes pixels. ``layer`` and ``options`` are those of `latent_attention`.
    """
    if raw is None or isinstance(method_named(options.get("method", "grad_cam")), ImageMethod):
        return latent_attention(model, images, layer, **options).float()
    size = options.get("size", "input")
    given = {**options, "size": tuple(images.shape[-2:]) if size == "input" else size}
    return latent_attention(model, raw, layer, **given).float()
