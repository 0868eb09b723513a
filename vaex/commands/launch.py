"""Running a command under Hydra: its arguments, a checkpoint's own config as a choice, a run folder to resume."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vaex.commands.ending import ending_jobs
from vaex.commands.jobs import WATCH, Job, SweepWatch, end_of_sweep, how_to_go_on, joblib_sweep
from vaex.commands.searching import RefusedSweep
from vaex.config import CHECKPOINT_CHOICE, conf_dir, register_resolvers, stored_config
from vaex.errors import VaexError
from vaex.runs import read_config

PATHS = (
    *(
        "ckpt",
        "images",
        "out",
        "resume",
        "init",
        "run",
        "runs",
        "paths.data",
        "paths.output",
        "paths.run",
        "hydra.run.dir",
    ),
    *("data.root", "data.normal_dir", "data.normal_test_dir", "data.abnormal_dir", "data.mask_dir", "data.manifest"),
    "data.cache_dir",
)
"""Keys whose values are paths."""

TEXTS = ("compare",)
"""Keys whose values are any text, such as the name of a table's row."""

MULTIRUN = ("-m", "--multirun")
ASKS = ("-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version", "-r", "--run", "-sc")
"""Flags that run nothing, or one thing."""

FALLBACKS = {"data": None, "augmentation": "none", "attention": "grad_cam", "score": "attention", "metrics": "default"}
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


def quoted_paths(arguments: Sequence[str]) -> list[str]:
    """Quote the values of `PATHS` and `TEXTS`, whose spaces and commas then need no second quoting; not in a sweep."""
    if is_sweep(arguments):
        return list(arguments)

    def quote(argument: str) -> str:
        key, sign, value = argument.partition("=")
        plain = sign and key in (*PATHS, *TEXTS) and value not in ("", "null") and value[0] not in "'\"$"
        plain = plain and not (key == "runs" and value[0] == "[")  # a list of paths
        return f"{key}={quoted(value)}" if plain else argument

    return [quote(argument) for argument in arguments]


def one_folder(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``paths.run=FOLDER`` as Hydra's ``hydra.run.dir=FOLDER``, which it follows.

    Set alone it would part checkpoints from the config that belongs to them.

    Raises:
        VaexError: for one folder and several runs.
    """
    name = "paths.run="
    folder = value_of(arguments, "paths.run")
    if folder is None:
        return list(arguments)
    if is_sweep(arguments):
        raise VaexError(f"Several runs cannot share the folder {folder}: name hydra.sweep.dir=FOLDER for them.")
    return [f"hydra.run.dir={arg[len(name) :]}" if arg.startswith(name) else arg for arg in arguments]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether the arguments ask for several runs."""
    return bool(set(MULTIRUN) & set(arguments)) or value_of(arguments, "hydra.mode") == "MULTIRUN"


def asks(arguments: Sequence[str]) -> bool:
    """Return whether a flag asks for something else than a sweep."""
    return any(argument.split("=")[0] in ASKS for argument in arguments) or value_of(arguments, "hydra.mode") == "RUN"


def sweeping(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with ``--multirun`` where ``sweep=...`` asks for it and no flag asks for another thing.

    Where a flag does, as ``--cfg job``, it is asked of the first job, and ``--multirun`` goes.

    Raises:
        VaexError: for a sweep that is wandb's to run, and for several presets, whose values Hydra would leave out.
    """
    chosen = value_of(arguments, "sweep") or ""
    if chosen.startswith("wandb_"):
        raise VaexError(
            f"sweep={chosen} is a definition for wandb: run `wandb sweep {conf_dir() / 'sweep' / chosen}.yaml`, then "
            "the `wandb agent ...` that it names (docs/wandb.md)."
        )
    if "," in chosen or chosen.startswith("["):
        raise VaexError(f"sweep={chosen}: one preset at a time; write the values of another beside it, as KEY=A,B.")
    if asks(arguments):
        return [first_value(argument) for argument in arguments if argument not in MULTIRUN]
    return [*arguments, MULTIRUN[1]] if chosen and not is_sweep(arguments) else list(arguments)


def first_value(argument: str) -> str:
    """Return an override with the first of the values that it sweeps over; any other argument as it is."""
    if argument.startswith("-") or "=" not in argument:
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
        if not override.is_sweep_override():
            return argument
        value: Any = override.value()
        first = value.start if override.is_interval_sweep() else next(iter(override.sweep_string_iterator()))
    except (HydraException, StopIteration):  # told where it is read in earnest
        return argument
    return f"{override.get_key_element()}={first}"


def under_hydra(
    command: str,
    task: Callable[[DictConfig], Any],
    arguments: Sequence[str],
    typed: Sequence[str] | None = None,
    outcome: Callable[[DictConfig, Path], Any] | None = None,
) -> None:
    """Compose ``conf/<command>.yaml`` with ``arguments`` and run ``task`` on the config, under Hydra.

    ``typed`` is what the user typed, where ``arguments`` say more: it starts further processes and is recorded.
    ``outcome`` is what `vaex.commands.jobs.Job` says. The jobs of a sweep run whatever becomes of the others; a failed
    one is named when it fails.

    Raises:
        VaexError: when jobs of a sweep failed; a single run raises its own error.
    """
    register_resolvers()
    arguments = one_folder(sweeping(arguments))
    several = is_sweep(arguments)
    before = sys.argv
    job = Job(command, task, tuple(arguments if typed is None else typed), before[0], outcome)
    overrides = [*arguments, WATCH] if several else arguments
    sys.argv = [before[0], *overrides_first(quoted_paths(readable_groups(overrides)))]
    failure: Exception | None = None
    SweepWatch.folder = None
    try:
        with ending_jobs(joblib_sweep) if several else nullcontext():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(job)()
    except RefusedSweep as refused:
        failure = refused.error
    except (KeyboardInterrupt, SystemExit):
        if several:
            how_to_go_on(command)
        raise
    except Exception as error:  # noqa: BLE001 - told below, with what is known of the jobs
        failure = error
    finally:
        sys.argv = before
    if several:
        end_of_sweep(job, failure)
    elif job.errors:
        raise job.errors[0]
    elif failure is not None:
        raise failure


@contextmanager
def checkpoint_choices(checkpoint: str | None) -> Iterator[list[str]]:
    """Offer the config inside ``checkpoint`` as the choice "checkpoint" of each group; yield Hydra's arguments for it.

    So ``attention.target=kl`` changes one key of what the model was trained with, and ``attention=official`` replaces
    it. Without a checkpoint (``--help``) the choices are the fallbacks.

    Raises:
        VaexError: when the checkpoint is missing, damaged or holds an interpolation.
    """
    if checkpoint and "," in checkpoint and not Path(checkpoint).expanduser().exists():
        raise VaexError(f"ckpt={checkpoint}: one checkpoint at a time; run the command once for each.")
    stored = stored_config(read_config(checkpoint).get("run") or {}) if checkpoint else {}
    data = stored.get("data") or {}
    if "augmentation" in data:  # so that augmentation=... replaces it
        stored |= {"augmentation": data["augmentation"], "data": {**data, "augmentation": "${augmentation}"}}
    with tempfile.TemporaryDirectory(prefix="vaex-") as folder:
        for group, fallback in FALLBACKS.items():
            content = stored.get(group) or {}
            if fallback is not None:  # keys that came after the checkpoint was written
                known: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{fallback}.yaml"))
                same = content.get("name", known.get("name")) == known.get("name")  # another score has other keys
                content = {**known, **content} if same else content
            path = Path(folder) / group / f"{CHECKPOINT_CHOICE}.yaml"
            path.parent.mkdir()
            OmegaConf.save(OmegaConf.create(content), path)
        yield [f"hydra.searchpath=[{quoted('file://' + folder)}]"]
