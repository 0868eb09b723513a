"""``vaex bench what=all``: every benchmark one after the other, and all their tables in one document."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.errors import VaexError
from vaex.runs import shipped_names
from vaex.sentences import sentence

NEED_RUNS = ("pointing", "faithfulness", "scoring")
"""Benchmarks of trained runs; where none is named they look at the shipped model."""


def measure_all(config: DictConfig, parts: Mapping[str, Callable[[DictConfig], Any]]) -> None:
    """Run all ``parts``, each of which writes bench_<what>.json into ``out``, and write bench_all.txt, .md and .json.

    The three hold what is done so far and are written anew behind each part. One that fails is named, in them too, and
    the others go on.

    Raises:
        VaexError: behind the last part, when any of them failed.
    """
    folder = Path(config.out).expanduser()
    done: list[str] = []
    failed: dict[str, str] = {}
    files: list[Path] = []
    for what, part in parts.items():
        print(f"vaex bench: {what} ({len(done) + len(failed) + 1} of {len(parts)})", file=sys.stderr)
        try:
            part(own_options(config, what))
            done.append(what)
        except Exception as error:  # noqa: BLE001 - what other parts measure is not lost
            failed[what] = sentence(error, "bench")
            print(f"vaex bench: {what} failed: {failed[what]}", file=sys.stderr)
        files = write_all(folder, done, failed)
    print("\n".join(map(str, files)))
    if failed:
        raise VaexError(f"{len(failed)} of {len(parts)} benchmarks failed: {', '.join(failed)}; each is named above.")


def own_options(config: DictConfig, what: str) -> DictConfig:
    """Return the config of ``what`` alone."""
    own: Any = OmegaConf.merge(config, {"what": what})
    if what in NEED_RUNS and not own.runs:
        own.runs = shipped_names()
    return own  # type: ignore[no-any-return]


def write_all(folder: Path, done: Sequence[str], failed: Mapping[str, str]) -> list[Path]:
    """Write bench_all.txt, .md and .json of the parts that are ``done``; return their paths.

    The JSON holds machine, versions and commit once, and under ``parts`` what each benchmark measured.
    """
    from vaex.benchmarks.table import read_part, write_results
    from vaex.commands.bench import origin

    shared = origin()
    found = {what: read_part(folder / f"bench_{what}.json") for what in done}
    parts = {what: {k: v for k, v in part.content.items() if k not in shared} for what, part in found.items()}
    notes = [f"Not measured: {what}. {reason}" for what, reason in failed.items()]
    tables = [table for part in found.values() for table in part.tables]
    return write_results(folder, "bench_all", tables, {**shared, "parts": parts, "failed": dict(failed)}, notes)
