"""From plain dicts to networks, objectives and models, by exact names: the only place that rebuilds a checkpoint."""

from __future__ import annotations

import inspect
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vaex import networks, priors
from vaex.checked import call_checked
from vaex.errors import VaexError, unknown
from vaex.intake import check_checkpoint_archive, check_plain
from vaex.networks import VAE
from vaex.networks.likelihoods import LikelihoodHead
from vaex.objectives import DIPVAEI, DIPVAEII, ELBO, IWAE, AnnealedVAE, BetaTCVAE, BetaVAE, FactorVAE, InfoVAE
from vaex.objectives.attention import AttentionDisentanglement, AttentionTerm
from vaex.objectives.coverage import AttentionExpansion, AttentionSize
from vaex.objectives.layers import readable_layer
from vaex.objectives.synthetic import SyntheticAttention
from vaex.objectives.terms import Objective
from vaex.runs import find_checkpoint, write_atomic
from vaex.shapes import FIXED_SHAPES, check_shape

NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "mnist": (networks.mnist_encoder, networks.mnist_decoder),
    "factor_vae": (networks.factor_vae_encoder, networks.factor_vae_decoder),
    "conv": (networks.conv_encoder, networks.conv_decoder),
    "resnet18": (networks.resnet18_encoder, networks.resnet18_decoder),
}
MODELS: dict[str, Callable[..., VAE]] = {
    "feature_vae": networks.feature_vector_vae,
    "feature_grid": networks.feature_grid_vae,
}
"""Networks that are more than an encoder and a decoder; they get ``shape`` and ``prior`` besides their options."""

PRIORS: dict[str, Callable[..., Any]] = {"normal": priors.StandardNormal}
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "vae": ELBO,
    "beta_vae": BetaVAE,
    "annealed_vae": AnnealedVAE,
    "beta_tcvae": BetaTCVAE,
    "dip_vae_i": DIPVAEI,
    "dip_vae_ii": DIPVAEII,
    "info_vae": InfoVAE,
    "iwae": IWAE,
    "factor_vae": FactorVAE,
    "synthetic_attention": SyntheticAttention,
    "attention_expansion": AttentionExpansion,
    "attention_size": AttentionSize,
}
BOUND = (IWAE, SyntheticAttention, AttentionExpansion)
"""Objectives that look at the model before the first step."""

CHECKPOINT_FIELDS = ("state_dict", "hyper_parameters")


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
    parts, options = named("network", {**NETWORKS, **MODELS}, network)
    prior_class, prior_options = named("prior", PRIORS, prior or {"name": "normal"})
    if network["name"] in MODELS:
        options["shape"] = check_shape(network["name"], options.get("shape"))
        options["prior"] = call_checked("prior", prior_class, prior_options)
        model: VAE = call_checked(f"network '{network['name']}'", parts, options)
        return model
    encoder, decoder = parts
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
    return VAE(
        call_checked(kind, encoder, options),
        call_checked(kind, decoder, options),
        call_checked("network.likelihood", LikelihoodHead, likelihood),
        call_checked("prior", prior_class, prior_options),
        shape,
    )


def build_objective(objective: Mapping[str, Any], model: VAE | None = None, seed: int = 0) -> Objective:
    """Return the objective from ``{"name": ..., ...}``.

    Its ``attention`` of a weight above 0 adds the attention-disentanglement term, read from a layer of ``model``;
    ``seed`` is that of the run, for its random pairs.

    Raises:
        VaexError: for an unknown name or option, a value out of range, or a layer that gives no map.
    """
    function, options = named("objective", OBJECTIVES, objective)
    attention = options.pop("attention", None) or {}
    if not isinstance(attention, Mapping):
        raise VaexError(f"objective.attention must be a mapping such as {{weight: 1.0}}, got {attention!r}.")
    built: Objective = call_checked(f"objective '{objective['name']}'", function, options)
    if isinstance(built, BOUND) and model is not None:
        built.bind(model)
    term = call_checked("objective.attention", AttentionTerm, attention)
    if term.weight == 0:
        return built
    if model is None:
        raise VaexError("objective.attention reads a layer of the model: give the model to build_objective too.")
    if model.latents < 2:
        raise VaexError(
            f"objective.attention compares latents: network.latents must be 2 or more, got {model.latents}."
        )
    layer = readable_layer(model, term.layer, "objective.attention.layer", latents=[0, 1], target=term.target)
    return AttentionDisentanglement(built, term, layer, seed)


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
        check_checkpoint_archive(file)
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
    check_plain(fields["hyper_parameters"], f"The config in {file}")
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
    prefix = "vae."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if str(k).startswith(prefix)}
    try:
        if config["network"].get("name") in NETWORKS:  # the config may name a network of any size
            with torch.device("meta"):
                build_model(config["network"], config.get("prior")).load_state_dict(weights, assign=True)
        model = build_model(config["network"], config.get("prior"))
        model.load_state_dict(weights)
    except VaexError as error:
        raise VaexError(f"The config in {file} does not describe a model of this version of vaex: {error}") from error
    except RuntimeError as error:
        raise VaexError(
            f"The weights in {file} do not fit the network '{config['network'].get('name')}' of its config; "
            "the file was edited or written by another version of vaex."
        ) from error
    model.config = dict(config)
    model.calibration = in_full(checkpoint.get("calibration") or {})
    return model.eval()


def in_full(value: Any) -> Any:
    """Return plain values with tensors in single precision: a file keeps in half what that holds exactly."""
    if isinstance(value, Mapping):
        return {key: in_full(item) for key, item in value.items()}
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


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
