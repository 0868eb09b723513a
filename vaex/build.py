"""From plain dicts to networks, objectives and models, by exact names: the only place that rebuilds a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vaex import networks, priors
from vaex.errors import VaexError, nearest, unknown
from vaex.networks import VAE
from vaex.networks.likelihoods import LikelihoodHead
from vaex.objectives import ELBO, BetaVAE
from vaex.objectives.terms import Objective
from vaex.runs import find_checkpoint

NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "mnist": (networks.mnist_encoder, networks.mnist_decoder),
    "factor_vae": (networks.factor_vae_encoder, networks.factor_vae_decoder),
    "conv": (networks.conv_encoder, networks.conv_decoder),
}
PRIORS: dict[str, Callable[..., Any]] = {"normal": priors.StandardNormal}
OBJECTIVES: dict[str, Callable[..., Objective]] = {"vae": ELBO, "beta_vae": BetaVAE}
CHECKPOINT_FIELDS = ("state_dict", "hyper_parameters")


def call_checked(kind: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call ``function(**options)``; an unknown or missing option is one sentence with the nearest valid name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind in kinds}
    for key in options:
        if key not in parameters:
            close = nearest(key, parameters)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise VaexError(f"{kind} has no option '{key}': {hint}it takes {', '.join(parameters) or 'none'}.")
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in options]
    if missing:
        raise VaexError(f"{kind} needs the option '{missing[0]}', which is not given.")
    return function(**options)


def named(kind: str, registry: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Split a config into the registry entry of its ``name`` and the other options."""
    options = dict(config)
    name = options.pop("name", None)
    if name not in registry:
        raise unknown(kind, str(name), registry)
    return registry[name], options


def build_model(network: Mapping[str, Any], prior: Mapping[str, Any] | None = None) -> VAE:
    """Return an untrained VAE from ``{"name": ..., "shape": [C, H, W], "latents": D, ...}``.

    Raises:
        VaexError: for an unknown name or option, or a shape that the network does not take.
    """
    (encoder, decoder), options = named("network", NETWORKS, network)
    likelihood = options.pop("likelihood", None) or {}
    shape = tuple(options.pop("shape", ()))
    kind = f"network '{network['name']}'"
    accepted = inspect.signature(encoder).parameters
    if "shape" in accepted:
        options["shape"] = shape
    if "channels" in accepted:
        options["channels"] = shape[0]
    prior_class, prior_options = named("prior", PRIORS, prior or {"name": "normal"})
    return VAE(
        call_checked(kind, encoder, options),
        call_checked(kind, decoder, options),
        call_checked("network.likelihood", LikelihoodHead, likelihood),
        call_checked("prior", prior_class, prior_options),
    )


def build_objective(objective: Mapping[str, Any]) -> Objective:
    """Return the objective from ``{"name": ..., ...}``."""
    function, options = named("objective", OBJECTIVES, objective)
    built: Objective = call_checked(f"objective '{objective['name']}'", function, options)
    return built


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content, read with ``weights_only=True``; ``path`` is a file, a run folder or a shipped name.

    Raises:
        VaexError: when there is no checkpoint, or the file is damaged or not one of vaex's.
    """
    file = find_checkpoint(path)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or hostile file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise VaexError(
            f"Checkpoint {file} cannot be read ({reason}): it is cut short, damaged or holds code; "
            "use another checkpoint of the run folder."
        ) from error
    missing = [key for key in CHECKPOINT_FIELDS if not isinstance(content, dict) or key not in content]
    if missing or "network" not in content["hyper_parameters"]:
        raise VaexError(f"{file} is not a vaex checkpoint: it lacks {', '.join(missing) or 'hyper_parameters.network'}.")
    checkpoint: dict[str, Any] = content
    return checkpoint


def load(path: str | Path) -> VAE:
    """Return the trained VAE of a checkpoint file, a run folder (its best checkpoint) or a shipped name ("sprites").

    The model is in evaluation mode; ``.config`` holds the plain config it was trained with and ``.calibration`` what
    was fitted after training (empty where nothing was).

    Raises:
        VaexError: when there is no checkpoint, or its weights do not fit its config.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint["hyper_parameters"]
    model = build_model(config["network"], config.get("prior"))
    prefix = "vae."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise VaexError(
            f"The weights in {find_checkpoint(path)} do not fit the network '{config['network'].get('name')}' of its config; "
            "the file was edited or written by another version of vaex."
        ) from error
    model.config = dict(config)
    model.calibration = dict(checkpoint.get("calibration", {}))
    return model.eval()
