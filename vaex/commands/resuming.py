"""A run folder's own config, read as input and taken up again where the run was stopped."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vaex.commands.launch import quoted, quoted_paths, value_of
from vaex.commands.own_parts import own_parts_only
from vaex.config import register_resolvers
from vaex.errors import VaexError
from vaex.intake import DEEPEST, check_plain
from vaex.runs import CHECKPOINTS, LAST, write_atomic

MAY_CHANGE = (
    "trainer.",
    "callbacks.",
    "logger.",
    "paths.",
    "test",
    "calibrate",
    "calibration_images",
    "slim_best",
    "optimized_metric",
    "report",
    "skip_finished",
    "pin_gpus",
)
"""Keys that a resumed run may set; all others decide what the weights mean, and may only be said again."""

LARGEST = 2**20
"""Bytes of a run folder's config that are read; those of vaex have some thousands."""


def read_run_config(folder: Path) -> dict[str, Any]:
    """Return ``.hydra/config.yaml`` of a run folder as plain values; nothing in it is evaluated.

    Raises:
        VaexError: when it is missing, too large, no YAML or no mapping of plain values, or repeats parts by reference.
    """
    file = folder / ".hydra" / "config.yaml"
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise VaexError(f"{file} has more than {LARGEST} bytes, so it is no config that vaex wrote; do not use it.")
        text = data.decode()
        _check_events(text, file)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else None
    except OSError as error:
        raise VaexError(f"{file} cannot be read ({error.strerror or error}); check the path.") from error
    except VaexError:
        raise
    except Exception as error:  # yaml and omegaconf raise nearly anything for damaged input
        raise VaexError(damaged(file)) from error
    check_plain(content, str(file))
    if not isinstance(content, dict) or not content:
        raise VaexError(damaged(file))
    return {str(key): value for key, value in content.items()}


def _check_events(text: str, file: Path) -> None:
    """Refuse what would be slow or large to build, before it is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise VaexError(f"{file} repeats parts by reference (*name), which vaex never writes; do not use it.")
        if depth > DEEPEST:
            raise VaexError(f"{file} has parts that are nested more than {DEEPEST} deep; do not use it.")


def damaged(file: Path) -> str:
    """Return the sentence for a run's config that cannot be read."""
    run = file.parent.parent
    return (
        f"{file} is cut short or damaged, so the run cannot go on as it was; its weights are still there: start a new "
        f"run from them with vaex train init={run} and the options in {run / 'run.json'}."
    )


@contextmanager
def resume_arguments(folder: Path, arguments: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments that continue the run in ``folder`` with the config it was started with.

    Hydra gets a checked copy of that config from a folder of its own, so that nothing else in the run folder can add to
    it. A run that was stopped before its first checkpoint starts at step 0, as it did before.

    Raises:
        VaexError: when the folder is no run folder, its config is damaged or would do more than vaex's own parts; for a
            key or choice that would change and cannot in the middle of a run; an equal value is left out.
    """
    folder = folder.resolve()
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise VaexError(f"Cannot resume {folder}: it is no run's folder (no .hydra/config.yaml); check the path.")
    dropped = ("resume=", "trust=", "debug=", "hydra.run.dir=", "hydra.output_subdir=")
    given = [argument for argument in arguments if not argument.lstrip("+").startswith(dropped)]
    others = [argument for argument in given if argument.startswith("-") or _may_change(argument)]
    content = read_run_config(folder)
    if not all(isinstance(content.get(key), dict) for key in ("data", "network", "trainer", "paths")):
        raise VaexError(damaged(folder / ".hydra" / "config.yaml"))
    if str(value_of(arguments, "trust")).lower() != "true":
        content = own_parts_only(without(content, others), folder)
    for argument in given:
        if argument not in others and not says_again(content, argument):
            raise VaexError(
                f"'{argument}' cannot change in a resumed run, which continues with its own config; start a new run, "
                f"or set keys of {', '.join(name.rstrip('.') for name in MAY_CHANGE)}."
            )
    content["paths"] = {**content.get("paths", {}), "run": "${hydra:runtime.output_dir}"}
    with tempfile.TemporaryDirectory(prefix="vaex-") as place:
        OmegaConf.save(OmegaConf.create(content), Path(place) / "config.yaml")
        yield [
            f"resume={quoted(folder)}",
            f"hydra.run.dir={quoted(folder)}",
            "hydra.output_subdir=null",  # `keep_config` writes it whole or not at all
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
            *others,
            f"--config-path={place}",
            "--config-name=config",
        ]


def _may_change(argument: str) -> bool:
    return argument.lstrip("+~").partition("=")[0].startswith((*MAY_CHANGE, "hydra."))


def says_again(content: dict[str, Any], argument: str) -> bool:
    """Return whether ``argument`` is ``key=value`` with the value that the config ``content``, once checked, has."""
    register_resolvers()
    try:
        override = OverridesParser.create().parse_override(quoted_paths([argument])[0])
        typed: Any = override.value()
        if override.type not in (OverrideType.CHANGE, OverrideType.FORCE_ADD) or override.package is not None:
            return False
        stored: Any = OmegaConf.select(OmegaConf.create(content), override.key_or_group, default=Ellipsis)
        plain = OmegaConf.to_container(stored, resolve=True) if OmegaConf.is_config(stored) else stored
    except (HydraException, OmegaConfBaseException):  # no override, or an interpolation that leads nowhere
        return False
    return bool(plain == typed) and isinstance(plain, bool) == isinstance(typed, bool)


def without(content: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return a config in which values that ``arguments`` set anew are null: they are the user's own then."""
    copied = copy.deepcopy(content)
    for argument in arguments:
        *parents, last = argument.partition("=")[0].split(".")
        part: Any = copied
        for name in parents:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict) and not isinstance(part.get(last, {}), dict | list):
            part[last] = None
    return copied


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that a resumed run goes on from, None where it was stopped before the first one."""
    last = folder / CHECKPOINTS / LAST
    return last if last.is_file() else None


def keep_config(folder: Path, config: Any) -> None:
    """Write the config of a resumed run, with what was changed, in place of the one it was started with."""
    write_atomic(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(config))
