"""Running a command under Hydra: its arguments, a checkpoint's own config as a choice, a run folder to resume."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from vaex.config import CHECKPOINT_CHOICE, conf_dir, register_resolvers, stored_config
from vaex.runs import find_checkpoint, read_config

FALLBACKS = {"data": None, "attention": "grad_cam", "score": "attention", "metrics": "default"}
"""Groups that a checkpoint fills, and the choice that stands in where it has nothing to say."""


def value_of(arguments: Sequence[str], key: str) -> str | None:
    """Return the value of the override ``key=value``, without its quotes, or None."""
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if sign and name.lstrip("+") == key and value not in ("", "null"):
            return value.strip("'\"")
    return None


def quoted(text: str | Path) -> str:
    """Return ``text`` as a quoted Hydra value."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


def readable_groups(arguments: Sequence[str]) -> list[str]:
    """Quote the numbers in choices of groups, such as ``trainer/precision=16``, which Hydra would take for integers."""

    def quote(argument: str) -> str:
        key, sign, value = argument.partition("=")
        if sign and value and (conf_dir() / key.lstrip("+")).is_dir():
            return f"{key}=" + re.sub(r"(?<![^,])(\d+)(?![^,])", r'"\1"', value)
        return argument

    return [quote(argument) for argument in arguments]


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """Sort overrides before flags: Hydra's parser refuses overrides on both sides of a flag."""

    def is_override(argument: str) -> bool:
        return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))

    return sorted(arguments, key=lambda argument: not is_override(argument))


def under_hydra(command: str, task: Callable[[DictConfig], Any], arguments: Sequence[str]) -> None:
    """Compose ``conf/<command>.yaml`` with ``arguments`` and run ``task`` on the config, under Hydra."""
    register_resolvers()
    arguments = overrides_first(readable_groups(arguments))
    before = sys.argv
    full = [before[0], command, *arguments]
    errors: list[Exception] = []

    def job(config: DictConfig) -> Any:
        # Lightning starts further processes from sys.argv, which must name the command
        sys.argv = full
        try:
            return task(config)
        except Exception as error:  # noqa: BLE001 - kept, so that the other jobs of a sweep run and Hydra prints nothing of its own
            errors.append(error)
            return None

    sys.argv = [before[0], *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(job)()
    finally:
        sys.argv = before
    if errors:
        raise errors[0]


@contextmanager
def checkpoint_choices(checkpoint: str | None) -> Iterator[list[str]]:
    """Offer the config inside ``checkpoint`` as the choice "checkpoint" of each group; yield Hydra's arguments for it.

    So ``attention.target=kl`` changes one key of what the model was trained with, and ``attention=official`` replaces
    it. Without a checkpoint (``--help``) the choices are the fallbacks.

    Raises:
        VaexError: when the checkpoint is missing, damaged or holds an interpolation.
    """
    stored = stored_config(read_config(find_checkpoint(checkpoint)).get("run") or {}) if checkpoint else {}
    with tempfile.TemporaryDirectory(prefix="vaex-") as folder:
        for group, fallback in FALLBACKS.items():
            content = stored.get(group)
            if content is None and fallback is not None:
                content = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{fallback}.yaml"))
            path = Path(folder) / group / f"{CHECKPOINT_CHOICE}.yaml"
            path.parent.mkdir()
            OmegaConf.save(OmegaConf.create(content or {}), path)
        yield [f"hydra.searchpath=[{quoted('file://' + folder)}]"]
