"""run.json and metrics.json: what was run, on what, and what came out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from vaex import __version__
from vaex.errors import VaexError
from vaex.reporting.scores import MEASURES
from vaex.runs import write_json

PACKAGES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy")
SECTIONS = ("attention", "latents", "localization", "disentanglement")


def source_state() -> dict[str, Any]:
    """Return commit and dirtiness of the checkout that vaex runs from; None where it is no checkout."""
    folder = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (folder / ".git").exists():
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def versions() -> dict[str, str]:
    """Return the versions of vaex, Python and the libraries that decide a result."""
    found = {"vaex": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return processor, cores, memory in GiB and GPUs."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "platform": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": None if memory is None else round(memory, 1),
        "gpus": gpus,
    }


class RunRecord:
    """run.json of a run folder: one entry per session, written when its body begins and ends.

    ``status`` is "running", "finished", "interrupted" or "failed"; ``content`` may be added to. Where the session
    ``goes_on`` with a training, ``data`` stays that of its start, and other data stands in the session.
    """

    def __init__(self, folder: Path, command: str, seed: int, data: Any, goes_on: bool = False) -> None:
        self.path = folder / "run.json"
        self._started = time.monotonic()
        previous = _earlier(self.path)
        now = {"module": type(data).__name__, "checksum": getattr(data, "checksum", None)}
        first = (previous.get("data") if goes_on else None) or now
        self.content: dict[str, Any] = {
            **previous,
            **source_state(),
            "command": previous.get("command", command),
            "seed": seed,
            "versions": versions(),
            "machine": machine(),
            "data": first,
        }
        self._session: dict[str, Any] = {"command": command, "started": datetime.now(UTC).isoformat(timespec="seconds")}
        self.other_data = first != now
        if self.other_data:
            self._session["data"] = now
        self.content["sessions"] = [*previous.get("sessions", []), self._session]

    def __enter__(self) -> RunRecord:
        self._write("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write("finished")
            return
        with suppress(VaexError):  # a full disk, say: what ended the body is told, not that this was in vain too
            self._write("interrupted" if issubclass(kind, KeyboardInterrupt | SystemExit) else "failed")

    def _write(self, status: str) -> None:
        self._session["wall_seconds"] = round(time.monotonic() - self._started, 1)
        self.content["wall_seconds"] = round(sum(s.get("wall_seconds", 0) for s in self.content["sessions"]), 1)
        self.content["status"] = status
        write_json(self.path, self.content)


def _earlier(path: Path) -> dict[str, Any]:
    """Return what an earlier session wrote, empty where there is none.

    Raises:
        VaexError: when it is damaged.
    """
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
        sessions = content.get("sessions", [])
        if isinstance(sessions, list) and all(isinstance(session, dict) for session in sessions):
            return dict(content)
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    raise VaexError(f"{path} is damaged; move it away and start the command again, which needs nothing of it.")


def flat_metrics(stage: str, logged: Mapping[str, Any], score: str | None = None) -> dict[str, float]:
    """Return the values logged for ``stage`` under flat names; ``image_auroc`` and the like are those of ``score``."""
    flat: dict[str, float] = {}
    for key, value in logged.items():
        section, _, name = key.partition("/")
        if section == stage and "/" not in name:
            flat[name] = float(value)
        elif section in SECTIONS and name.startswith(f"{stage}/"):
            flat[name.partition("/")[2]] = float(value)
    own = {measure: flat[f"{measure}_{score}"] for measure in MEASURES if f"{measure}_{score}" in flat}
    return {**own, **flat}


def write_metrics(folder: Path, **stages: Mapping[str, float]) -> None:
    """Write metrics.json, ``{"val": {...}, "test": {...}}``; stages that are not given stay as they are."""
    path = folder / "metrics.json"
    previous = _earlier(path)
    write_json(path, {**previous, **{stage: dict(values) for stage, values in stages.items()}})
