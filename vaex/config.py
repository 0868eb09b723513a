"""Where conf/ is found, the resolvers it uses, and errors of composition in one sentence. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaex.errors import VaexError, nearest, unknown

CHECKPOINT_CHOICE = "checkpoint"
"""Name of the choice, in the groups data, attention, score and metrics, that stands for a checkpoint's own config."""


def conf_dir() -> Path:
    """Return the folder of the config files: beside the package in a checkout, else inside the wheel.

    Raises:
        VaexError: when neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise VaexError(f"The config files of vaex are missing ({package / 'conf'}); install vaex again.")


def register_resolvers() -> None:
    """Register ``${vaex.channels:COLOR}``, the image channels of a sprite colour."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("vaex.channels", lambda color: 1 if color == "white" else 3, replace=True)


def choices(group: str) -> list[str]:
    """Return the valid choices of a config group, such as ``data`` or ``trainer/precision``."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


NETWORK_SHAPES: dict[str, tuple[int | None, int | None]] = {"mnist": (1, 28), "factor_vae": (None, 64)}
"""Channels and pixels that a network is made for; None takes any."""


def check(config: Mapping[str, Any]) -> None:
    """Check what does not depend on tensors: does the network take the data's images?

    Raises:
        VaexError: when it does not, with a choice that fits.
    """
    network = config["network"]
    shape = tuple(_whole(side, "network.shape") for side in network["shape"])
    channels, size = NETWORK_SHAPES.get(network["name"], (None, None))
    if (channels not in (None, shape[0])) or (size is not None and shape[1:] != (size, size)):
        raise VaexError(
            f"network={network['name']} takes images of {channels or 'C'}x{size}x{size}, but the data gives "
            f"{'x'.join(map(str, shape))}; choose network=conv or other data."
        )
    if network["name"] == "conv":
        deepest = shape[1].bit_length() - 1
        if shape[1] != shape[2] or not 32 <= shape[1] <= 256:
            raise VaexError(
                f"network=conv takes square images of 32 to 256 pixels, but the data gives "
                f"{'x'.join(map(str, shape))}; "
                + ("choose network=mnist." if shape == (1, 28, 28) else "choose another data.size.")
            )
        if not 1 <= _whole(network["depth"], "network.depth") <= deepest:
            raise VaexError(f"network.depth must be 1 to {deepest} for {shape[1]} pixels, got {network['depth']}.")
    if _whole(network["latents"], "network.latents") < 1:
        raise VaexError(f"network.latents must be at least 1, got {network['latents']}.")


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise VaexError(f"{key} must be a whole number, got '{value}'.")
    return value


def stored_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a checkpoint for Hydra: only ``${paths.*}`` may be interpolated, all else is text.

    Raises:
        VaexError: when it holds another interpolation, which could read the environment.
    """

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                walk(item, f"{key}.{name}")
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item, key)
        elif isinstance(value, str) and "${" in value and not re.fullmatch(r"\$\{paths\.\w+\}", value):
            raise VaexError(f"The checkpoint's config holds '{value}' at {key}, which vaex does not evaluate.")

    walk(content, "run")
    return dict(content)


def _flat(config: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in config.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += _flat(value, f"{prefix}{key}.")
    return keys


def friendly(error: Exception, command: str) -> str | None:
    """Return one sentence for an error of Hydra or OmegaConf, with the nearest valid name; None for another error."""
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    if match := re.search(r"Could not find '([^']+)'", text) or re.search(
        r"Cannot find primary config '([^']+)'", text
    ):
        group, _, name = match.group(1).rpartition("/")
        if group and choices(group):
            return str(unknown(f"choice for {group}", name, choices(group)))
        return f"Config '{match.group(1)}' does not exist in {conf_dir()}; check --config-dir and --config-name."
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        if "No match in the defaults list" in text:
            groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
            return str(unknown("config group", key, groups))
        if "not in struct" in text or "Key" in text:
            return str(_unknown_key(key, command))
        return f"Cannot set '{key}': {str(error.__cause__ or error).splitlines()[0]}."
    if match := re.search(r"Key '([^']+)' is not in struct", text):
        return str(_unknown_key(match.group(1), command))
    kind = type(error).__module__.partition(".")[0]
    if kind in {"hydra", "omegaconf", "antlr4"}:
        lines = [line for line in text.splitlines() if line.strip()]
        return f"The command line cannot be read: {lines[0].strip()} (vaex {command} --help lists the options)."
    return None


def _unknown_key(key: str, command: str) -> VaexError:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plain = OmegaConf.to_container(compose(config_name=command), resolve=False)
    keys = _flat(plain)
    tail = key.rpartition(".")[2]
    close = nearest(key, keys) or [k for k in keys if k.rpartition(".")[2] in nearest(tail, [tail_of(k) for k in keys])]
    hint = f"did you mean '{close[0]}'? " if close else ""
    return VaexError(f"Unknown key '{key}': {hint}vaex {command} --cfg job prints all keys; +{key}=... adds a new one.")


def tail_of(key: str) -> str:
    """Return the last part of a dotted key."""
    return key.rpartition(".")[2]
