"""Fixtures that every test may use."""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
settings.register_profile("vaex", deadline=None)  # a shared machine is slow now and then
settings.load_profile("vaex")


@pytest.fixture(autouse=True)
def own_rank() -> Iterator[None]:
    """Give the rank back that a test of several processes took: Lightning keeps it for the whole process."""
    yield
    lightning: Any = sys.modules.get("lightning_utilities.core.rank_zero")
    if lightning is not None and getattr(lightning.rank_zero_only, "rank", None):
        lightning.rank_zero_only.rank = 0


@pytest.fixture(scope="session")
def vaex_data() -> Path:
    """Folder of the real data sets, named by VAEX_DATA."""
    folder = os.environ.get("VAEX_DATA")
    if not folder:
        pytest.skip("real data needed: set VAEX_DATA to a folder with MNIST/raw, dsprites/ ...")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"VAEX_DATA names {path}, which is not a folder")
    return path


@dataclass
class WandbRecords:
    """What the record file of a wandb run says, nested keys as nested dicts."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)  # of a key or a pattern of keys
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    def rows(self, key: str) -> list[dict[str, Any]]:
        return [row for row in self.history if key in row]


def blocks(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log as wandb writes it: 7 bytes of head, then fragments in blocks of 32 KiB."""
    assert struct.unpack("<4sHB", content[:7]) == (b":W&B", 0xBEE1, 0)
    place, record = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:  # a head never crosses the end of a block
            place += left
            continue
        checksum, size, kind = struct.unpack("<IHB", content[place : place + 7])
        part = content[place + 7 : place + 7 + size]
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == checksum
        record = part if kind in (1, 2) else record + part  # 1 whole, 2 first, 3 middle, 4 last
        place += 7 + size
        if kind in (1, 4):
            yield record


def _set(target: dict[str, Any], item: Any) -> None:
    keys = list(item.nested_key) or [item.key]
    inner = target
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = json.loads(item.value_json)


def read_wandb(folder: Path) -> list[WandbRecords]:
    """Read every ``run-*.wandb`` below a folder, oldest first."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.parent.name):
        records = WandbRecords()
        for content in blocks(path.read_bytes()):
            record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                records.run = record.run
            for item in {"run": record.run.config.update, "config": record.config.update}.get(kind, ()):
                _set(records.config, item)
            if kind == "history":
                records.history.append({})
                for item in record.history.item:
                    _set(records.history[-1], item)
            if kind == "summary":
                for item in record.summary.update:
                    _set(records.summary, item)
            if kind == "metric":
                records.step_metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            if kind == "artifact":
                records.artifacts.append(record.artifact)
            if kind == "exit":
                records.exit_code = record.exit.exit_code
        found.append(records)
    return found


@pytest.fixture(scope="session")
def wandb_records() -> Callable[[Path], list[WandbRecords]]:
    """Reads what wandb recorded of the runs below a folder."""
    return read_wandb
