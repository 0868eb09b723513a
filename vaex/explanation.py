"""`explain`: the one path from images to maps and scores that every command, callback and export shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.attention.latent import latent_attention
from vaex.attention.outputs import code_of, encoding, reconstruction_of
from vaex.attention.values import over_cells
from vaex.errors import VaexError
from vaex.networks import VAE
from vaex.scores.image import Evidence, Scored, score_images
from vaex.scores.matching import check_maps, scorable
from vaex.types import LOGVAR_RANGE, Explanation, Posterior, VAEOutput


class _Statement(NamedTuple):
    mean: Tensor
    logvar: Tensor | None
    kl: Tensor | None
    reconstruction: Tensor | None


def _statement(model: nn.Module, images: Tensor) -> _Statement:
    output = model(images) if isinstance(model, VAE) else encoding(model)(images)
    code = code_of(output)
    if isinstance(output, VAEOutput):
        return _Statement(code.mean, code.logvar, output.kl, output.reconstruction)
    decoded = reconstruction_of(model, code.mean, images.shape)
    if code.logvar is None:
        return _Statement(code.mean, None, None, decoded)
    kl = Posterior(code.mean, code.logvar.clamp(*LOGVAR_RANGE)).kl_to_normal()
    return _Statement(code.mean, code.logvar, kl.flatten(2).sum(2) if kl.dim() > 2 else kl, decoded)  # kl (B, D)


def explain(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    score: str = "attention",
    **options: Any,
) -> Explanation:
    """Return maps, score map, score, code and reconstruction of ``images`` (B, C, H, W) in [0, 1].

    ``options`` are those of `vaex.attention.latent_attention`; ``score`` names one of `vaex.scores.SCORES`. What the
    model does not state (a log-variance, a decoder) is None; where it states no prior its KL is that to N(0, I), and of
    a latent grid the KL is summed over the cells. The same images give the same result inside fit, validate, test,
    predict and outside Lightning, and nothing of model or random stream is changed.

    Raises:
        VaexError: as `latent_attention`; for a score that the model cannot give, such as one that needs calibration;
            for ``create_graph=True``.
    """
    if options.get("create_graph"):
        raise VaexError("An explanation carries no graph; for a loss call latent_attention(..., create_graph=True).")
    check_maps(score, calibration_of(model), layer, options)
    maps = latent_attention(model, images, layer, **options).float()
    model = original(model)
    with undisturbed(model, images) as pixels:
        said = _statement(model, pixels)
        logvar, kl, reconstruction = (None if part is None else part.float() for part in said[1:])
        mean = said.mean.float()
        pixels = images.detach().clone().float()
        code = over_cells(mean, options.get("reduce", "sum")) if mean.dim() in (2, 4) else None
        scored = score_images(score, Evidence(pixels, maps, reconstruction, kl, code, calibration_of(model)))
    return Explanation(maps, scored.score_map, scored.score, mean, logvar, kl, reconstruction)


def calibration_of(model: nn.Module) -> Mapping[str, Any]:
    """Return what calibration left in the model; empty where nothing was fitted."""
    found = getattr(original(model), "calibration", None)
    return found if isinstance(found, Mapping) else {}


def scores_of(
    names: Sequence[str],
    model: nn.Module,
    images: Tensor,
    explanation: Explanation,
    layer: str | Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Scored]:
    """Return those of the scores ``names`` that explained ``images`` (B, C, H, W) in [0, 1] allow.

    ``layer`` and ``options`` are those of the explanation. Left out is what the model does not state (a decoder, a
    log-variance) or was not calibrated for.
    """
    mean = explanation.mean
    code = over_cells(mean, options.get("reduce", "sum")) if mean.dim() in (2, 4) else None
    said = explanation.reconstruction, explanation.kl, code, calibration_of(model)
    evidence = Evidence(images.float(), explanation.maps, *said)
    return {name: score_images(name, evidence) for name in scorable(names, evidence, layer, options)}
