"""Where conf/ is found, the resolvers it uses, and what is checked of a config. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.cluster import job_size
from vaex.errors import VaexError
from vaex.shapes import check_shape

STAND_INS = {
    "data": "sprites",
    "augmentation": "none",
    "attention": "grad_cam",
    "score": "attention",
    "metrics": "default",
}
"""Groups that a checkpoint fills, and a choice of each that has the same keys."""

HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_", "defaults", "hydra")
"""Keys by which a config asks Hydra to build or to compose; files from elsewhere may not."""

CHECKPOINT_CHOICE = "checkpoint"
"""Name of the choice, in the groups of `STAND_INS`, that stands for a checkpoint's own config."""


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
    """Register the resolvers of ``conf/``.

    ``${vaex.channels:COLOR}`` are the image channels of a sprite colour; ``${vaex.group:NAME}`` names what runs are
    logged under together, the folder of a sweep, NAME for a single run; ``${vaex.tags:}`` are words that a run can be
    found by: data, network and objective; ``${vaex.slurm:tasks}`` and ``${vaex.slurm:nodes}`` are the tasks per node
    and the nodes of the SLURM job, 1 outside of one; ``${vaex.steps:3,100000}`` is a third of ``trainer.max_steps``,
    100000 where epochs decide how long a run is; ``${vaex.subject:}`` is the category or texture of the data, own where
    it has neither.
    """
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("vaex.channels", lambda color: 1 if color == "white" else 3, replace=True)
    OmegaConf.register_new_resolver("vaex.group", _group, replace=True)
    OmegaConf.register_new_resolver("vaex.slurm", job_size, replace=True)
    OmegaConf.register_new_resolver("vaex.steps", _steps, replace=True)
    OmegaConf.register_new_resolver("vaex.subject", _subject, replace=True)
    OmegaConf.register_new_resolver("vaex.tags", _tags, replace=True)


def _group(name: str) -> str:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    return Path(hydra.sweep.dir).name if hydra is not None and hydra.mode == RunMode.MULTIRUN else name


def _steps(parts: int, usual: int, *, _root_: Any) -> int:
    total = (_root_.get("trainer") or {}).get("max_steps")
    return max(1, total // parts) if isinstance(total, int) and total > 0 else usual


def _subject(*, _root_: Any) -> str:
    return subject_of(_root_.get("data") or {})


def subject_of(data: Mapping[str, Any]) -> str:
    """Return what ``${vaex.subject:}`` stands for: category or texture of a data config, own where it has neither."""
    return str(data.get("category") or data.get("texture") or "own")


def _tags(*, _root_: Any) -> list[str]:
    data = str((_root_.get("data") or {}).get("_target_", "")).rpartition(".")[2]
    names = [data, *((_root_.get(group) or {}).get("name") for group in ("network", "objective"))]
    return [str(name) for name in names if name]


def check(config: Mapping[str, Any]) -> None:
    """Check what does not depend on tensors: does the network take the data's images?

    Raises:
        VaexError: when it does not, with a choice that fits.
    """
    network = config["network"]
    check_shape(network["name"], network["shape"], network.get("depth"))
    if _whole(config.get("seed", 0), "seed") < 0:
        raise VaexError(f"seed must be 0 or more, got {config['seed']}.")
    if _whole(network["latents"], "network.latents") < 1:
        raise VaexError(f"network.latents must be at least 1, got {network['latents']}.")


def check_augmentation(config: Mapping[str, Any]) -> None:
    """Check that images which are to be changed can be.

    Raises:
        VaexError: when ``augmentation`` names transforms and the data set takes none.
    """
    chosen, data = config.get("augmentation") or {}, config.get("data") or {}
    if chosen.get("transforms") and data and "augmentation" not in data:
        name = str(data.get("_target_", "")).rpartition(".")[2] or "this data set"
        raise VaexError(
            f"augmentation={chosen.get('name', 'the one that was chosen')} has no effect on {name}, whose images are "
            "taken as they are; choose augmentation=none, or data that takes it, such as mvtec or folder."
        )


def idle_keys(config: Mapping[str, Any], groups: Sequence[str] = ("callbacks", "logger")) -> list[str]:
    """Return the keys that were set, by an experiment say, of callbacks and loggers that were not chosen."""
    return [
        f"{group}.{name}"
        for group in groups
        for name, item in (config.get(group) or {}).items()
        if item and "_target_" not in item
    ]


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise VaexError(f"{key} must be a whole number, got '{value}'.")
    return value


def stored_config(content: Any) -> dict[str, Any]:
    """Return the config of a checkpoint for Hydra: only ``${paths.*}`` may be interpolated, all else is text.

    ``data._target_`` is kept, for `vaex.commands.assembly.build_data` to look up among vaex's own; addresses to
    download from are left out.

    Raises:
        VaexError: when a group in it is no mapping, when it holds another interpolation, which could read the
            environment, or a key by which Hydra builds or composes.
    """
    if not isinstance(content, Mapping):
        raise VaexError(f"The checkpoint's config must hold a mapping at run, got {type(content).__name__}.")

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                if name in HYDRA_KEYS and (key, name) != ("run.data", "_target_"):
                    raise VaexError(f"The checkpoint's config holds '{name}' at {key}, where nothing is built by name.")
                walk(item, f"{key}.{name}")
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item, key)
        elif isinstance(value, str) and "${" in value and not re.fullmatch(r"\$\{paths\.\w+\}", value):
            raise VaexError(f"The checkpoint's config holds '{value}' at {key}, which vaex does not evaluate.")

    walk(content, "run")
    for group in STAND_INS:
        if not isinstance(content.get(group) or {}, Mapping):
            raise VaexError(f"The checkpoint's config must hold a mapping at run.{group}; do not use it.")
    stored = dict(content)
    if stored.get("data"):
        stored["data"] = {k: None if k in ("urls", "sha256") else value for k, value in stored["data"].items()}
    return stored
