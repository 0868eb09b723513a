"""`explain`: the one path from images to maps and scores that every command, callback and export shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.attention.outputs import code_of, encoding, reconstruction_of
from vaex.attention.values import over_cells
from vaex.errors import VaexError
from vaex.networks import VAE
from vaex.scores.evidence import Evidence, Scored, Statement, maps_of, stated
from vaex.scores.matching import check_maps, scorable
from vaex.scores.registry import ScoreLike, score_named
from vaex.types import LOGVAR_RANGE, Explanation, Posterior, VAEOutput


class _Said(NamedTuple):
    mean: Tensor
    logvar: Tensor | None
    kl: Tensor | None
    statement: Statement


def features_before(model: nn.Module, images: Tensor) -> Tensor:
    """Return what to give the model for ``images``: of a feature VAE their raw features, computed once."""
    if not hasattr(model, "raw_features"):
        return images
    with undisturbed(model, images) as pixels:
        raw: Tensor = model.raw_features(pixels)  # type: ignore[operator]
        return raw


def _said(model: nn.Module, images: Tensor) -> _Said:
    output = model(images) if isinstance(model, VAE) else encoding(model)(images)
    code = code_of(output)
    if isinstance(output, VAEOutput):
        kl = output.kl
        return _Said(code.mean, code.logvar, kl.flatten(2).sum(2) if kl.dim() > 2 else kl, stated(output))
    decoded = Statement(reconstruction_of(model, code.mean, images.shape), None, None)
    if code.logvar is None:
        return _Said(code.mean, None, None, decoded)
    kl = Posterior(code.mean, code.logvar.clamp(*LOGVAR_RANGE)).kl_to_normal()
    return _Said(code.mean, code.logvar, kl.flatten(2).sum(2) if kl.dim() > 2 else kl, decoded)  # kl (B, D)


def evidence_of(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    reads: Collection[str] = ("maps",),
    **options: Any,
) -> tuple[Evidence, Tensor, Tensor | None]:
    """Return what the scores of ``images`` (B, C, H, W) in [0, 1] look at, and the codes' mean and log-variance.

    ``layer`` and ``options`` are those of `vaex.attention.latent_attention`. Attention maps are there only where
    ``reads`` names them.
    """
    whole = original(model)
    seen = features_before(whole, images)
    raw = None if seen is images else seen
    found = maps_of(model, images, raw, layer, **options) if "maps" in reads else None
    with undisturbed(whole, seen) as pixels:
        said = _said(whole, pixels)
        logvar, kl, reconstruction, features, decoded, raw = (
            None if part is None else part.float() for part in (said.logvar, said.kl, *said.statement, raw)
        )
        mean = said.mean.float()
        code = over_cells(mean, options.get("reduce", "sum")) if mean.dim() in (2, 4) else None
        pixels, grid = images.detach().clone().float(), mean if mean.dim() == 4 else None
        calibration = calibration_of(whole)
        return (
            Evidence(pixels, found, reconstruction, kl, code, calibration, features, decoded, raw, whole, grid),
            mean,
            logvar,
        )


def explain(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    score: ScoreLike = "attention",
    **options: Any,
) -> Explanation:
    """Return maps, score map, score, code and reconstruction of ``images`` (B, C, H, W) in [0, 1].

    ``options`` are those of `vaex.attention.latent_attention`; ``score`` is one of `vaex.scores.SCORES`: a name, a
    mapping of name and options, or a `vaex.scores.Score`. What the model does not state (a log-variance, a decoder of
    images) is None; where it states no prior its KL is that to N(0, I), and of a latent grid the KL is summed over the
    cells. The same images give the same result inside fit, validate, test, predict and outside Lightning, and nothing
    of model or random stream is changed.

    Raises:
        VaexError: as `latent_attention`; for a score that the model cannot give, such as one that needs calibration;
            for ``create_graph=True``.
    """
    return explain_and_score(model, images, layer, score=score, **options)[0]


def explain_and_score(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    score: ScoreLike = "attention",
    scores: Sequence[ScoreLike] = (),
    **options: Any,
) -> tuple[Explanation, dict[str, Scored]]:
    """Return the explanation of ``images`` as `explain` does and, by name, those of ``scores`` that the model allows.

    Left out is what the model does not state (a decoder, a log-variance) or was not calibrated for.
    """
    if options.get("create_graph"):
        raise VaexError("An explanation carries no graph; for a loss call latent_attention(..., create_graph=True).")
    main = score_named(score)
    check_maps(main, calibration_of(model), layer, options)
    beside = [score_named(other) for other in scores]
    evidence, mean, logvar = evidence_of(model, images, layer, **options)
    evidence = evidence._replace(known={})
    with undisturbed(original(model), images):
        scored = main(evidence)
        also = scorable(beside, evidence, layer, options)
        others = {other.known_as: scored if other == main else other(evidence) for other in also}
    if evidence.maps is None:  # for the type checker: they were asked for
        raise VaexError("There are no attention maps to explain with.")
    explanation = Explanation(evidence.maps, *scored, mean, logvar, evidence.kl, evidence.reconstruction)
    return explanation, others


def score_only(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str] | None = None,
    *,
    score: ScoreLike = "attention",
    **options: Any,
) -> Scored:
    """Return score map and score of ``images`` as `explain` does, without attention maps where the score reads none."""
    main = score_named(score)
    check_maps(main, calibration_of(model), layer, options)
    evidence, _, _ = evidence_of(model, images, layer, reads=main.reads, **options)
    with undisturbed(original(model), images):
        return main(evidence)


def calibration_of(model: nn.Module) -> Mapping[str, Any]:
    """Return what calibration left in the model; empty where nothing was fitted."""
    found = getattr(original(model), "calibration", None)
    return found if isinstance(found, Mapping) else {}
