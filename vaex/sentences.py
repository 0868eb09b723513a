"""Any error in one sentence, with the nearest valid name where a name was wrong. Imports no torch."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.config import CHECKPOINT_CHOICE, STAND_INS, conf_dir
from vaex.errors import VaexError, nearest, unknown

PLUGINS = {
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
}
"""Choices of Hydra that come with packages; all but Ray's are in the extra sweep."""


def _flat(config: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in config.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += _flat(value, f"{prefix}{key}.")
    return keys


def _own_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that ``--config-dir`` adds."""
    folders = []
    for position, argument in enumerate(arguments):
        flag, sign, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value if sign else arguments[position + 1] if position + 1 < len(arguments) else "."))
    return folders


def sentence(error: BaseException, command: str, arguments: Sequence[str] = ()) -> str:
    """Return one sentence for any error, with the nearest valid name where a name was wrong."""
    cause: BaseException | None = error
    while cause is not None:  # Hydra wraps what a constructor raises
        if isinstance(cause, VaexError):
            return str(cause)
        cause = cause.__cause__
    if (told := _composition(error, command, arguments)) is not None:
        return told
    if isinstance(error, OSError) and error.strerror and error.filename is None:  # of a file that is open
        return f"A file could not be read or written ({error.strerror}); {_remedy(error)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename} could not be read or written ({error.strerror}); {_remedy(error)}"
    first = (str(error).strip().splitlines() or [""])[0]
    kind = type(error).__name__
    if kind == "MisconfigurationException":
        return first
    if (match := re.search(r"Early stopping conditioned on metric `(.+?)` .*?: (.*)", first)) is not None:
        return (
            f"Early stopping watches {match.group(1)}, which was not among what was measured ({match.group(2)}): name "
            "one of these as callbacks.early_stopping.monitor, or let the first validation come before the training "
            "ends (trainer.val_check_interval)."
        )
    if type(error).__module__.startswith("wandb"):
        return f"{first} (logger.wandb.offline=true needs no account)"
    return f"{kind}: {first} (debug=default shows where)"


def _remedy(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (
        "free space, then go on: vaex train resume=RUN_FOLDER."
        if full
        else "check the folder (debug=default shows where)."
    )


def _composition(error: BaseException, command: str, arguments: Sequence[str]) -> str | None:
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, name = match.group(1).rpartition("/")
        if package := PLUGINS.get(match.group(1)):
            return f"{match.group(1)} needs a package that is not installed: pip install {package}."
        if group.startswith("hydra/") and (there := re.findall(r"\t(\w+)", text.partition("Config search path")[0])):
            return str(unknown(f"choice for {group}", name, there))
        valid = {
            path.stem for folder in [conf_dir(), *_own_folders(arguments)] for path in (folder / group).glob("*.yaml")
        }
        if group and valid:
            return str(unknown(f"choice for {group}", name, valid))
        return f"Config '{match.group(1)}' does not exist in {conf_dir()}; check --config-dir and --config-name."
    if match := re.search(r"Cannot find primary config '([^']+)'", text):
        return f"Config '{match.group(1)}' does not exist; check --config-path and --config-name."
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        if "No match in the defaults list" in text:
            groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
            if key in groups:  # a group of other commands
                return f"vaex {command} has no choices of '{key}'; vaex {command} --help lists what it takes."
            return str(unknown("config group", key, groups))
        if "not in struct" in text or "Key" in text:
            return _unknown_key(key, command, arguments)
        return f"Cannot set '{key}': {str(error.__cause__ or error).splitlines()[0]}."
    if match := re.search(r"Key '([^']+)' is not in struct", text):
        return _unknown_key(match.group(1), command, arguments)
    if type(error).__module__.partition(".")[0] in {"hydra", "omegaconf", "antlr4"}:
        lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
        return f"The command line cannot be read: {lines[0]} (vaex {command} --help lists the options)."
    return None


def _unknown_key(key: str, command: str, arguments: Sequence[str]) -> str:
    keys = [name for name in _all_keys(command, arguments) if name != key]
    by_tail = {name.rpartition(".")[2]: name for name in reversed(keys)}
    close = nearest(key, keys) or [by_tail[tail] for tail in nearest(key.rpartition(".")[2], by_tail)]
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"Unknown key '{key}': {hint}vaex {command} --cfg job prints all keys; +{key}=... adds a new one."


def _all_keys(command: str, arguments: Sequence[str]) -> list[str]:
    """Return the keys of the composed config, with the user's choices of groups where they compose."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    chosen = [a for a in arguments if (conf_dir() / a.partition("=")[0]).is_dir() and "=" in a]
    stand_in = [f"{group}={STAND_INS[group]}" for group in _filled_groups(command)]
    for overrides in ([*stand_in, *chosen], stand_in):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                return _flat(OmegaConf.to_container(compose(command, overrides), resolve=False))
        except Exception:  # noqa: BLE001, S112 - an error message must not fail over another error
            continue
    return []


def _filled_groups(command: str) -> list[str]:
    """Return the groups of a command that stand for what its checkpoint holds."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{command}.yaml"), resolve=False)
    pairs = [pair for entry in content["defaults"] if isinstance(entry, Mapping) for pair in entry.items()]
    return [group for group, choice in pairs if choice == CHECKPOINT_CHOICE]
