"""Which runs are repetitions of one another, and which scores they measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vaex.errors import VaexError, unknown
from vaex.reporting.results import Result, measured, one_per_seed
from vaex.reporting.scores import chosen_score, scored_measure

IDLE = (
    *("seed", "name", "resume", "ckpt", "optimized_metric", "paths", "logger", "hydra"),
    *("skip_absent", "skip_finished", "pin_gpus", "report", "trust", "compile", "channels_last"),
    *("callbacks.progress", "callbacks.lr_monitor", "callbacks.last_checkpoint", "callbacks.attention.every_n_epochs"),
    *("callbacks.attention.figure_images", "callbacks.attention.figure_latents"),
    *("callbacks.attention.folder", "callbacks.traversal.folder", "callbacks.disentanglement.folder"),
    "callbacks.best_checkpoint.dirpath",
    *("data.root", "data.cache", "data.cache_dir", "data.num_workers", "data.pin_memory"),
    *("data.download", "data.urls", "data.sha256"),
)
"""Keys, and groups of keys, that no result depends on but for rounding and chance."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone: ``name``, the keys that tell it from its namesakes, one run per seed."""

    name: str
    differing: tuple[tuple[str, str], ...]
    runs: tuple[Result, ...]

    @property
    def label(self) -> str:
        """Name and differing keys, such as ``mvtec_paper, network.latents=16``."""
        return ", ".join([self.name, *(f"{key}={value}" for key, value in self.differing)])


def grouped(
    results: Sequence[Result], by: Sequence[str] | None = None, across: Sequence[str] = ()
) -> tuple[list[Group], list[str]]:
    """Return groups of runs with the same name and the same value of every key that differs among namesakes.

    ``by`` names the keys to tell runs apart by, in place of all those that differ. With ``across=["data.category"]``
    runs of several categories share a group. Also returns a sentence for each run that a newer one replaces.

    Raises:
        VaexError: when no run's config has a key of ``by``.
    """
    for key in by or ():
        if not any(key in result.config for result in results):
            raise unknown("key in by", key, {key for result in results for key in result.config})
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(result.family if across else result.name, []).append(result)
    groups, told = [], []
    for name, runs in families.items():
        keys = [key for key in (differing_keys(runs) if by is None else by) if key not in across]
        members: dict[tuple[tuple[str, str], ...], list[Result]] = {}
        for run in runs:
            members.setdefault(tuple((key, _shown(run.config.get(key))) for key in keys), []).append(run)
        for differing, same in sorted(members.items(), key=lambda item: [in_order(value) for _, value in item[0]]):
            kept = []
            for part in _split(same, across):
                one_each, sentences = one_per_seed(part)
                kept += one_each
                told += sentences
            groups.append(Group(name, differing, tuple(kept)))
    return groups, told


def in_order(value: str) -> tuple[int, float, str]:
    """Return what to sort the values of a key by: numbers by size, then texts."""
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)


def _split(runs: Iterable[Result], keys: Sequence[str]) -> list[list[Result]]:
    parts: dict[tuple[str, ...], list[Result]] = {}
    for run in runs:
        parts.setdefault(tuple(_shown(run.config.get(key)) for key in keys), []).append(run)
    return list(parts.values())


def differing_keys(results: Sequence[Result]) -> list[str]:
    """Return the config keys, but those of `IDLE`, that have two values or more among the runs.

    What does not count: a key that follows another one, as ``data.seed`` follows ``seed`` (in evaluations it has its
    value), ``init`` where every seed starts from weights of its own, and that a run's config lacks a key, because it is
    older.
    """
    keys = dict.fromkeys(key for result in results for key in result.config)
    found = []
    for key in keys:
        if key in IDLE or key.startswith(tuple(f"{idle}." for idle in IDLE)):
            continue
        if key == "init" and _one_per_seed(results):
            continue
        present = [result for result in results if key in result.config]
        if key.endswith(".seed") and all(result.config[key] == result.seed for result in present):
            continue
        written = {_shown(result.raw.get(key)) for result in present}
        if len(written) > 1 and len({_shown(result.config[key]) for result in present}) > 1:
            found.append(key)
    return found


def _one_per_seed(results: Sequence[Result]) -> bool:
    """Whether each seed has one ``init`` and each ``init`` one seed, as where every seed's training is forked."""
    starts = {(result.seed, _shown(result.config.get("init"))) for result in results}
    return len(starts) == len({seed for seed, _ in starts}) == len({init for _, init in starts})


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool) or not isinstance(value, str):
        return json.dumps(value, default=str)
    return value


def scores_measured(runs: Iterable[Result], stage: str) -> list[str]:
    """Return the scores that any of the runs measured, the one that was chosen for the run first."""
    runs = list(runs)
    found = {pair[1] for name in measured(runs, stage) if (pair := scored_measure(name)) is not None}
    chosen = {chosen_score(run.config) for run in runs}
    return sorted(found, key=lambda score: (score not in chosen, score))


def chosen_metrics(results: Sequence[Result], stage: str, asked: Sequence[str] | None) -> list[str]:
    """Return the columns: those asked for, else the common measures of localisation, else all that was measured.

    Raises:
        VaexError: for a name that no run measured, and when nothing was measured in ``stage``.
    """
    names = measured(results, stage)
    if not names:
        stages = sorted({key for result in results for key, values in result.measures.items() if values})
        raise VaexError(f"No run measured anything in stage={stage}; measured are {', '.join(stages) or 'no stages'}.")
    pairs = [pair for name in names if (pair := scored_measure(name)) is not None]
    known = {*(measure for measure, _ in pairs), *names}
    for name in asked or ():
        if name.partition("/")[0] not in known:
            raise unknown("metric", name, known)
    if asked is not None:
        return list(asked)
    common: list[str] = [name for name in ("pixel_auroc", "aupro", "best_iou", "image_auroc") if name in known]
    return common or [name for name in names if scored_measure(name) is None]
