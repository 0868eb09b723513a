"""Sections of the report read off a run's files: summary, pictures, curves, config."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaex.reporting.results import Result
from vaex.reporting.units import unit_of
from vaex.runs import CHECKPOINTS
from vaex.viz.report_html import Markup, definitions, element, joined, picture
from vaex.viz.report_page import Section
from vaex.viz.report_plots import line_plot

STAGES = ("train", "val", "test")
LARGEST_PICTURE = 3 * 2**20


def title_of(result: Result) -> str:
    """Return the name of the run with its seed."""
    return result.name + ("" if result.seed is None else f", seed {result.seed}")


def record_of(folder: Path) -> dict[str, Any]:
    """Return run.json, empty where it is missing or damaged."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def summary_section(result: Result) -> Section:
    """Return what was run, on what, how long, and by which versions."""
    record, config = record_of(result.folder), result.config
    machine = _mapping(record.get("machine"))
    data, sessions = _mapping(record.get("data")), record.get("sessions") or [{}]
    gpus = ", ".join(map(str, machine.get("gpus") or [])) or None
    seconds = record.get("wall_seconds")
    commit = record.get("commit")
    category = config.get("data.category")
    entries = {
        "status": record.get("status"),
        "command": _code(record.get("command")),
        "started": _mapping(sessions[0]).get("started"),
        "wall time": f"{seconds:.0f} s ({seconds / 60:.1f} min)" if isinstance(seconds, int | float) else None,
        "data": " ".join(str(part) for part in (data.get("module"), category) if part) or None,
        "data checksum": data.get("checksum"),
        "network": config.get("network.name"),
        "objective": config.get("objective.name"),
        "attention": _attention(config),
        "score": config.get("score.label") or config.get("score.name"),
        "checkpoint": record.get("checkpoint") or record.get("best_checkpoint"),
        "random weights": "yes: a control, never trained" if record.get("random_weights") else None,
        "seed": result.seed,
        "commit": f"{commit}{' with uncommitted changes' if record.get('dirty') else ''}" if commit else None,
        "machine": ", ".join(str(part) for part in (machine.get("cpu"), gpus, machine.get("platform")) if part) or None,
        "versions": ", ".join(f"{name} {value}" for name, value in _mapping(record.get("versions")).items()) or None,
        "folder": _code(result.folder),
    }
    unfinished = record.get("status") not in (None, "finished", "running")
    warning = element("p", "This run did not finish; what follows is what it left.", class_="wrong")
    told = element("p", str(record["warning"]), class_="wrong") if record.get("warning") else ""
    return Section("summary", "Run", joined([warning if unfinished else "", told, definitions(entries)]))


def _attention(config: Mapping[str, Any]) -> str | None:
    method, target, layer = (config.get(f"attention.{name}") for name in ("method", "target", "layer"))
    if method is None and config.get("attention.method.name") is None:
        return None
    method = method or config.get("attention.method.name")
    target = target or config.get("attention.target.name")
    return f"method {method}, target {target}, layer {layer or 'the last with more than one cell'}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _code(value: Any) -> Markup | None:
    return None if value is None else element("code", value)


def pictures_sections(folder: Path) -> list[Section]:
    """Return traversals, the matrix of latents and factors, and the other pictures of the run, where it drew them."""
    kinds = (
        ("traversals", "Traversals", "traversal", "What changes when one latent moves and all others stay"),
        ("factors", "Latents and factors", "mutual_information", "Mutual information of latents and factors, in nats"),
        (
            "pictures",
            "Test images",
            "attention_test",
            "The first test images, as decoded, and their maps",
        ),
    )
    sections = []
    for name, title, start, text in kinds:
        files = [
            path
            for path in (folder / "figures").glob(f"{start}*.png")  # no GIF: what moves cannot be stopped
            if whole_picture(path)
        ]
        if files:
            newest = max(files, key=lambda path: (path.stat().st_mtime, path.name))
            sections.append(Section(name, title, picture(newest.read_bytes(), f"{text} ({newest.name})")))
    return sections


def whole_picture(path: Path) -> bool:
    """Return whether a file is a PNG that can be shown, and not too large for the page."""
    from PIL import Image

    try:
        if path.stat().st_size > LARGEST_PICTURE:
            return False
        with Image.open(path, formats=["PNG"]) as found:
            found.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def curves_section(result: Result) -> Section:
    """Return metrics.csv as small plots, one per measure, training and validation in each.

    An evaluation shows the training of the run whose checkpoint it tested.
    """
    lines, note = read_curves(result.folder), ""
    if not lines and result.config.get("ckpt"):
        path = Path(str(result.config["ckpt"])).expanduser()
        origin = path.parent.parent if path.parent.name == CHECKPOINTS else path
        lines, note = read_curves(origin), f"The training of {origin}, whose checkpoint was tested."
    plots = [
        line_plot(stages, name, "optimiser step", unit_of(name) or "value")
        for name, stages in lines.items()
        if any(max(x) - min(x) > 1 for x, _ in stages.values())  # the best epoch's is measured once more, a step on
    ]
    if not plots:
        return Section("curves", "Training", Markup(""))
    told = element("p", note, class_="note") if note else ""
    return Section("curves", "Training", joined([told, element("div", *plots, class_="plots")]))


def read_curves(folder: Path) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Return name -> stage -> (steps, values) of metrics.csv; empty where it is missing. The test is no curve."""
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    try:
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError):
        return {}
    for number, row in enumerate(rows):
        step = _number(row.get("step"))
        for key, text in row.items():
            value = _number(text)
            if key in (None, "epoch", "step") or value is None:
                continue
            parts = str(key).split("/")
            stage = next((part for part in parts if part in STAGES), "")
            if stage == "test":
                continue
            name = "/".join(part for part in parts if part != stage)
            x, y = found.setdefault(name, {}).setdefault(stage or "run", ([], []))
            x.append(float(number) if step is None else step)
            y.append(value)
    order = ("loss", "reconstruction", "kl")
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 3, item[0])))


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def config_section(folder: Path) -> Section:
    """Return the whole config and what was overridden, as they were written."""
    parts = []
    for name, title, opened in (("overrides", "Arguments", True), ("config", "The whole config", False)):
        try:
            text = (folder / ".hydra" / f"{name}.yaml").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parts.append(element("details", element("summary", title), element("pre", text, tabindex=0), open=opened))
    return Section("config", "Config", joined(parts))
