"""From plain dicts to networks, objectives and models, by exact names: the only place that rebuilds a checkpoint."""

from __future__ import annotations

import inspect
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from vaex import networks, priors
from vaex.errors import VaexError, nearest, unknown
from vaex.networks import VAE
from vaex.networks.likelihoods import LikelihoodHead
from vaex.objectives import ELBO, BetaVAE
from vaex.objectives.terms import Objective
from vaex.objectives.warmup import Warmup
from vaex.runs import find_checkpoint, write_atomic
from vaex.shapes import FIXED_SHAPES, check_shape

NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "mnist": (networks.mnist_encoder, networks.mnist_decoder),
    "factor_vae": (networks.factor_vae_encoder, networks.factor_vae_decoder),
    "conv": (networks.conv_encoder, networks.conv_decoder),
}
PRIORS: dict[str, Callable[..., Any]] = {"normal": priors.StandardNormal}
OBJECTIVES: dict[str, Callable[..., Objective]] = {"vae": ELBO, "beta_vae": BetaVAE}
CHECKPOINT_FIELDS = ("state_dict", "hyper_parameters")
KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "text"),
    "bool": (bool, "true or false"),
}
"""Annotations that `call_checked` compares values with, and their names in words."""


def call_checked(kind: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call ``function(**options)`` with names and plain types checked against its signature.

    Raises:
        VaexError: for an unknown option (the nearest valid name is told), a missing one, or a value of another type.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind in kinds}
    for key in options:
        if key not in parameters:
            close = nearest(key, parameters)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise VaexError(f"{kind} has no option '{key}': {hint}it takes {', '.join(parameters) or 'none'}.")
        expected, words = KINDS.get(str(parameters[key].annotation), (object, ""))
        value = options[key]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected in (Integral, Real)):
            raise VaexError(f"{kind} needs {words} for the option '{key}', got {value!r}.")
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in options]
    if missing:
        raise VaexError(f"{kind} needs the option '{missing[0]}', which is not given.")
    return function(**options)


def named(kind: str, registry: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Split a config into the registry entry of its ``name`` and the other options."""
    if not isinstance(config, Mapping):
        raise VaexError(f"The {kind} must be a mapping such as {{name: {next(iter(registry))}}}, got {config!r}.")
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
    kind = f"network '{network['name']}'"
    accepted = inspect.signature(encoder).parameters
    shape = options.pop("shape", None)
    fixed = FIXED_SHAPES.get(network["name"])
    if shape is None and fixed is not None:
        shape = [fixed[0] or options.get("channels", accepted["channels"].default), *fixed[1:]]
    shape = check_shape(network["name"], shape)
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
        shape,
    )


def build_objective(objective: Mapping[str, Any]) -> Objective:
    """Return the objective from ``{"name": ..., ...}``.

    Raises:
        VaexError: for an unknown name or option, or a value out of range.
    """
    function, options = named("objective", OBJECTIVES, objective)
    if options.get("warmup"):
        call_checked("objective.warmup", Warmup, options["warmup"])
    built: Objective = call_checked(f"objective '{objective['name']}'", function, options)
    return built


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content, read with ``weights_only=True``.

    ``path`` is a file, a run folder or the name of a shipped checkpoint.

    Raises:
        VaexError: when there is no checkpoint, or the file is damaged or not one of vaex's.
    """
    file = find_checkpoint(path)
    damaged = f"Checkpoint {file} is cut short, damaged or no checkpoint at all; use another one of the run folder."
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # torch would read it as a bare pickle
                raise VaexError(damaged)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except VaexError:
        raise
    except pickle.UnpicklingError as error:
        raise VaexError(
            f"Checkpoint {file} holds more than tensors and plain values, which could run code when it is read, "
            "so it is not read; use one that vaex wrote."
        ) from error
    except OSError as error:
        raise VaexError(f"Checkpoint {file} cannot be read ({error.strerror or error}); check the file.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise VaexError(damaged) from error
    fields = content if isinstance(content, dict) else {}
    missing = [key for key in CHECKPOINT_FIELDS if not isinstance(fields.get(key), Mapping)]
    if not missing and not isinstance(fields["hyper_parameters"].get("network"), Mapping):
        missing = ["hyper_parameters.network"]
    if missing:
        raise VaexError(f"{file} is not a vaex checkpoint: it lacks {', '.join(missing)}; use one that vaex wrote.")
    checkpoint: dict[str, Any] = content
    return checkpoint


def load(path: str | Path) -> VAE:
    """Return the trained VAE of a checkpoint file, a run folder (its best checkpoint) or a shipped name ("sprites").

    The model is in evaluation mode; ``.config`` holds the plain config it was trained with and ``.calibration`` what
    was fitted after training (empty where nothing was).

    Raises:
        VaexError: when there is no checkpoint, or its weights do not fit its config.
    """
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    config = checkpoint["hyper_parameters"]
    try:
        model = build_model(config["network"], config.get("prior"))
    except VaexError as error:
        raise VaexError(f"The config in {file} does not describe a model of this version of vaex: {error}") from error
    prefix = "vae."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if str(k).startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise VaexError(
            f"The weights in {file} do not fit the network '{config['network'].get('name')}' of its config; "
            "the file was edited or written by another version of vaex."
        ) from error
    model.config = dict(config)
    model.calibration = dict(checkpoint.get("calibration") or {})
    return model.eval()


def slim_checkpoint(source: str | Path, target: str | Path) -> None:
    """Write the weights in half precision and the config of ``source`` alone to ``target``, to be shipped or mailed."""
    checkpoint = read_checkpoint(source)
    weights = {
        key: value.half() if value.is_floating_point() else value for key, value in checkpoint["state_dict"].items()
    }
    buffer = io.BytesIO()
    content = {"state_dict": weights, "hyper_parameters": checkpoint["hyper_parameters"]}
    torch.save({**content, "calibration": checkpoint.get("calibration", {})}, buffer)
    write_atomic(Path(target), buffer.getvalue())
