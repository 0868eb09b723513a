"""Are these maps of the kind that calibration has seen? Maps of another layer or target are on another scale."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from vaex.attention.latent import latent_attention
from vaex.errors import VaexError
from vaex.scores.evidence import Evidence
from vaex.scores.score import Score

FREE = ("size", "chunk", "create_graph")
"""Options of `latent_attention` that do not change what a map says."""


def map_options(layer: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a map: ``layer`` and the options of `latent_attention`, the defaults filled in.

    Sequences come as lists, mappings as dicts. ``size``, ``chunk`` and ``create_graph`` are left out.
    """
    parameters = inspect.signature(latent_attention).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in FREE}
    given = {name: value for name, value in options.items() if name not in FREE}
    decided = {"layer": layer, **defaults, **given}
    return {name: _listed(value) for name, value in decided.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(item) for name, item in value.items()}
    sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return [_listed(item) for item in value] if sequence else value


def told_apart(seen: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return in words what options that were ``seen`` are otherwise ``now``; empty where none is."""
    # Of an option that is younger than what was seen nothing is known
    differ = [name for name, value in seen.items() if now.get(name) != value]
    return ", ".join(f"{prefix}{name}={seen[name]} and not {now.get(name)}" for name in differ)


def check_maps(score: Score, calibration: Mapping[str, Any] | None, layer: Any, options: Mapping[str, Any]) -> None:
    """Check that ``score`` compares maps with those of a calibration of the same kind.

    Raises:
        VaexError: when they differ in an option, with what the calibration has seen.
    """
    seen = (calibration or {}).get("attention") or {}
    if score.compares_maps and (differ := told_apart(seen, map_options(layer, options))):
        raise VaexError(
            f"score={score.name} compares with maps of the same kind, but this model was calibrated with {differ}; "
            "give the same options, or run `vaex calibrate ckpt=...` with the new ones."
        )


def scorable(scores: Sequence[Score], evidence: Evidence, layer: Any, options: Mapping[str, Any]) -> list[Score]:
    """Return those of ``scores`` that the evidence suffices for and whose calibration has seen maps of this kind."""
    seen = (evidence.calibration or {}).get("attention") or {}
    foreign = bool(told_apart(seen, map_options(layer, options)))
    return [score for score in scores if not score.missing(evidence) and not (foreign and score.compares_maps)]
