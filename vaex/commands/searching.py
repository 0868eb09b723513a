"""What a sweep optimises and how its jobs are launched: refused before anything is trained, and told at the end."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vaex.errors import VaexError, unknown

NO_NUMBER = "No job returned a number to optimise: set optimized_metric to one that metrics.json holds."

STAGES = ("val", "test")
"""What ``optimized_metric`` may be measured in."""


class UnmeasuredError(VaexError):
    """What a search optimises is not measured: no later trial could say more."""


class RefusedSweep(BaseException):
    """A sweep that cannot be launched; ``error`` says why."""

    def __init__(self, error: VaexError) -> None:
        super().__init__(str(error))
        self.error = error


def names_of_objective(config: Any) -> list[str]:
    """Return what ``optimized_metric`` names, as a list."""
    names = config.get("optimized_metric") or []
    return [names] if isinstance(names, str) else list(names)


def check_sweep(config: DictConfig) -> None:
    """Refuse a sweep that its launcher or sweeper could not begin, or whose ``optimized_metric`` no run can give.

    Raises:
        VaexError: naming the key.
    """
    launcher, sweeper = config.hydra.launcher, config.hydra.sweeper
    for section, key, part in (
        ("launcher", "n_jobs", launcher),
        ("sweeper", "n_jobs", sweeper),
        ("sweeper", "n_trials", sweeper),
        ("sweeper", "max_batch_size", sweeper),
    ):
        value = part.get(key)
        counts_back = section == "launcher" and isinstance(value, int) and value < 0  # from the number of cores
        if value is not None and not counts_back and not (isinstance(value, int) and value >= 1):
            extra = ", or -1 for as many as there are cores" if section == "launcher" else ""
            raise VaexError(f"hydra.{section}.{key} must be a whole number of at least 1{extra}, got {value}.")
    if str(launcher._target_).endswith("SlurmLauncher") and not all(map(shutil.which, ("srun", "sbatch"))):
        raise VaexError(
            "launcher=submitit needs SLURM, and its srun and sbatch are not on this machine: start the command on a "
            "login node of the cluster, or choose launcher=submitit_local or launcher=joblib."
        )
    if sweeper.get("direction") is None:
        return
    for name in names_of_objective(config):
        stage, _, measure = str(name).partition("/")
        if stage not in STAGES or not measure:
            near = f"; did you mean 'test/{name}'?" if "/" not in str(name) else ""
            raise VaexError(f"optimized_metric={name} must be val/NAME or test/NAME, as metrics.json has them{near}")
        if stage == "test" and config.get("test") is False:
            raise VaexError(f"optimized_metric={name} is measured by the test, which test=false leaves out.")


def is_sweep() -> bool:
    """Return whether this is one of the jobs of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def is_search() -> bool:
    """Return whether this is a job of a sweep that optimises what the job returns."""
    if not is_sweep():
        return False
    hydra: Any = HydraConfig.get()
    return hydra.sweeper.get("direction") is not None


def check_measured(config: DictConfig, found: Collection[str], tested: Collection[str], absent: Iterable[str]) -> None:
    """Refuse an ``optimized_metric`` that a run does not measure, as far as that is known behind its first validation.

    ``found`` are the names that the validation logged, ``tested`` the first words of those that a test may add,
    ``absent`` those of measures that were not chosen. Another name may be that of a callback, and passes unless it
    looks like a misspelt one.

    Raises:
        UnmeasuredError: with the nearest names.
    """
    for full in names_of_objective(config):
        stage, _, name = full.partition("/")
        valid = {*found} if stage == "val" else {*found, *tested}
        if name in valid or (stage == "test" and name.startswith(tuple(f"{first}_" for first in tested))):
            continue
        known = f"the run measures {', '.join(f'{stage}/{other}' for other in sorted(valid))}"
        if name in absent:
            raise UnmeasuredError(f"optimized_metric={full} is not chosen in metrics; {known}.")
        if stage == "val" or difflib.get_close_matches(name, valid, cutoff=0.8):
            raise unmeasured(full, [f"{stage}/{other}" for other in valid])


def unmeasured(full: str, valid: Iterable[str]) -> UnmeasuredError:
    """Return the error for an ``optimized_metric`` that is not among the ``valid`` names."""
    return UnmeasuredError(str(unknown("optimized_metric", full, valid)))


def check_objectives(config: DictConfig) -> None:
    """Refuse a search whose directions are not as many as ``optimized_metric`` names, before anything is trained.

    Raises:
        VaexError: naming both.
    """
    sweeper: Any = HydraConfig.get().sweeper
    direction, metric = sweeper.get("direction"), config.get("optimized_metric")
    if direction is None:
        return
    if OmegaConf.is_list(direction) != OmegaConf.is_list(metric) or (
        OmegaConf.is_list(direction) and len(direction) != len(metric)
    ):
        raise VaexError(
            f"hydra.sweeper.direction={direction} does not fit optimized_metric={metric}: name one direction for each."
        )


def is_empty_study(error: Exception) -> bool:
    """Return whether the error is Optuna's, that no trial of the study gave a value."""
    return isinstance(error, ValueError) and ("Record does not exist" in str(error) or "No trials" in str(error))


def search_results(folder: Path, names: Sequence[str]) -> list[str]:
    """Return lines with what the Optuna sweeper found for the metrics ``names``: the best, or all trade-offs.

    Raises:
        VaexError: when it got no numbers.
    """
    file = folder / "optimization_results.yaml"
    if not file.is_file():
        return []
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    if content.get("solutions") == []:
        raise VaexError(NO_NUMBER)
    found = content.get("solutions") or [{"params": content.get("best_params"), "values": [content.get("best_value")]}]
    return [
        f"Best: {', '.join(f'{name} {value:.6g}' for name, value in zip(names, one['values'], strict=False))} with "
        + " ".join(f"{key}={value}" for key, value in one["params"].items())
        for one in found
    ]
