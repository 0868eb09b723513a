"""Runs that only exist as numbers, and run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaex.reporting.results import Result

Write = Callable[..., Path]


def made(name: str, seed: int | None, test: dict[str, float], **config: Any) -> Result:
    """Return a run whose config is flat and settled."""
    keys = {"name": name, **{key.replace("__", "."): value for key, value in config.items()}}
    return Result(Path(f"{name}_{seed}"), {"test": test}, keys, keys, seed)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a run folder below ``tmp_path``."""

    def run_folder(where: str, metrics: Any = None, config: str = "", **record: Any) -> Path:
        folder = tmp_path / where
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(config)
        if metrics is not None:
            (folder / "metrics.json").write_text(metrics if isinstance(metrics, str) else json.dumps(metrics))
        (folder / "run.json").write_text(json.dumps(record))
        return folder

    return run_folder
