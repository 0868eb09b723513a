"""Sections of the report read off a run's files: summary, metrics, kinds of defect, pictures, curves, config."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaex.reporting.published import published_columns
from vaex.reporting.resolution import counts_pixels, measured_at, resolution_of, resolution_sentence
from vaex.reporting.results import Result
from vaex.runs import CHECKPOINTS
from vaex.viz.report_html import Markup, definitions, element, joined, picture, table
from vaex.viz.report_page import Section
from vaex.viz.report_plots import line_plot

KINDS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro", "aupro_005", "aupimo", "best_iou", "f1_max")
"""Measures that are looked for by kind of defect and beside published figures, in this order."""

UNITS = {"loss": "nats per image", "reconstruction": "nats per image", "kl": "nats per image"}
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
    return Section("summary", "Run", joined([warning if unfinished else "", definitions(entries)]))


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


def metrics_section(result: Result, others: Sequence[Result] = ()) -> Section:
    """Return all numbers without those of single kinds, a column per stage or run, and what was published."""
    stages = [stage for stage in ("test", "val") if result.measures.get(stage)]
    beside = split_by_score(result)
    columns = ["measure", *stages, *(f"{title_of(other)} ({other.folder.name}), test" for other in others)]
    names = sorted({name for stage in stages for name in result.measures[stage] if "/" not in name} - set(beside))
    rows = [
        [name, *(result.measures[s].get(name) for s in stages), *(o.measures.get("test", {}).get(name) for o in others)]
        for name in names
    ]
    parts = [table("Measures of this run" + (" and of other runs" if others else ""), columns, rows)]
    sides = [(title_of(run), resolution_of(run.config)) for run in (result, *others)]
    if told := resolution_sentence(sides) if any(map(counts_pixels, result.measures.get("test", {}))) else "":
        parts.append(element("p", told, class_="note"))
    published = published_table(result)
    if published:
        parts.append(published)
    return Section("metrics", "Metrics", joined(parts))


def split_by_score(result: Result) -> dict[str, tuple[str, str]]:
    """Return the test's measures that name a score, by their whole name: (measure, score)."""
    found = {}
    for name in result.measures.get("test", {}):
        base = name.partition("/")[0]
        measures = [measure for measure in KINDS if base.startswith(f"{measure}_") and base not in KINDS]
        if measures:
            measure = max(measures, key=len)
            found[name] = (measure, base.removeprefix(f"{measure}_"))
    return found


def published_table(result: Result) -> Markup | None:
    """Return the run's own row beside the published ones of its category of MVTec AD, or None."""
    if result.category is None or not str(result.config.get("data._target_", "")).endswith("MVTec"):
        return None
    test = result.measures.get("test", {})
    measures: list[str] = []
    rows: dict[str, tuple[str, dict[str, float]]] = {}
    for measure in KINDS:
        found = {column.method: column for column in published_columns(measure) if result.category in column.cells}
        if not found or measure not in test:
            continue
        measures.append(measure)
        for method, column in found.items():
            rows.setdefault(method, (column.source, {}))[1][measure] = column.cells[result.category].mean
    if not measures:
        return None
    lines: list[list[object]] = [["this run", title_of(result), *(test[measure] for measure in measures)]]
    lines += [[name, source, *(cells.get(m) for m in measures)] for name, (source, cells) in rows.items()]
    caption = f"Beside published figures, MVTec AD {result.category}; \N{EN DASH} where none was printed"
    return table(caption, ["method", "source", *measures], lines, best=True, texts=2)


def kinds_section(result: Result) -> Section:
    """Return a table per measure: a row per score, the run's own first, a column per kind of defect."""
    test = result.measures.get("test", {})
    found = split_by_score(result)
    scores = list(dict.fromkeys(score for _, score in found.values()))
    label = str(result.config.get("score.label") or result.config.get("score.name"))
    scores.sort(key=lambda score: (score != label, score))
    kinds = sorted({name.partition("/")[2] for name in found if "/" in name})
    tables = []
    for measure in KINDS:
        rows: list[list[object]] = []
        for score in scores:
            cells = [test.get(f"{measure}_{score}"), *(test.get(f"{measure}_{score}/{kind}") for kind in kinds)]
            if any(cell is not None for cell in cells):
                rows.append([f"{score} (this run's score)" if score == label else score, *cells])
        if rows:
            tables.append(table(f"{measure}, [0, 1], test", ["score", "all", *kinds], rows, best=True))
    if not tables:
        return Section("kinds", "Kinds of defect and controls", Markup(""))
    note = "Every score that was measured, so that controls stand beside what they control; the highest is bold."
    note = " ".join([note, measured_at(resolution_of(result.config), test)]).strip()
    return Section("kinds", "Kinds of defect and controls", joined([element("p", note, class_="note"), *tables]))


def pictures_sections(folder: Path) -> list[Section]:
    """Return traversals, the matrix of latents and factors, and the other pictures of the run, where it drew them."""
    kinds = (
        ("traversals", "Traversals", "traversal", "What changes when one latent moves and all others stay"),
        ("factors", "Latents and factors", "mutual_information", "Mutual information of latents and factors, in nats"),
        ("pictures", "Test images", "attention_test", "Test images, reconstructions and maps as the test drew them"),
    )
    sections = []
    for name, title, start, text in kinds:
        files = [
            path
            for path in (folder / "figures").glob(f"{start}*.png")  # no GIF: what moves cannot be stopped
            if path.stat().st_size <= LARGEST_PICTURE
        ]
        if files:
            newest = max(files, key=lambda path: (path.stat().st_mtime, path.name))
            sections.append(Section(name, title, picture(newest.read_bytes(), f"{text} ({newest.name})")))
    return sections


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
        line_plot(stages, name, "optimiser step", UNITS.get(name, "value"))
        for name, stages in lines.items()
        if any(len(x) > 1 for x, _ in stages.values())
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
