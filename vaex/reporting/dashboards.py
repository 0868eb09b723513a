"""From a dashboard's definition, plain lists and dicts, to the workspace and the report that wandb-workspaces sends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaex.errors import VaexError, unknown

STEP = "trainer/global_step"
"""The x-axis of curves."""

CONFIG = "config:"
"""What stands before a key of a run's config; other keys are of its summary."""

OPTIONS = ("title", "log_y")
"""What may stand beside the kind of a panel, where that has it."""

SECTION_KEYS = ("name", "text", "panels")


@dataclass(frozen=True)
class Library:
    """The two halves of wandb-workspaces."""

    workspaces: Any
    reports: Any


def library() -> Library:
    """Return wandb-workspaces.

    Raises:
        VaexError: when it is not installed.
    """
    try:
        return Library(
            importlib.import_module("wandb_workspaces.workspaces"),
            importlib.import_module("wandb_workspaces.reports.v2"),
        )
    except ImportError as error:
        raise VaexError(
            "vaex dashboard needs wandb-workspaces, which is missing: pip install wandb-workspaces (extra report)."
        ) from error


def panel_of(definition: Mapping[str, Any], found: Library) -> Any:
    """Return the panel of a definition such as ``{"lines": ["val/loss"], "title": "Loss"}``.

    Raises:
        VaexError: for an unknown kind or option, no kind or several, or a value of another form.
    """
    kinds = [key for key in definition if key not in OPTIONS]
    for kind in kinds:
        if kind not in PANELS:
            raise unknown("kind of panel in a dashboard", kind, PANELS)
    if len(kinds) != 1:
        raise VaexError(f"A panel of a dashboard is of one kind ({', '.join(PANELS)}), got {dict(definition)}.")
    kind = kinds[0]
    make, takes = PANELS[kind]
    options = {key: definition[key] for key in OPTIONS if definition.get(key) is not None}
    for key in options:
        if key not in takes:
            raise VaexError(f"A panel '{kind}' of a dashboard takes no {key}; leave it out.")
    return make(found.reports, definition[kind], **options)


def workspace_of(definition: Mapping[str, Any], found: Library, entity: str, project: str, name: str) -> Any:
    """Return the workspace of a definition; its sections are open, and curves are drawn over the training step."""
    space = found.workspaces
    groups = [_attribute(space, key) for key in definition.get("group_by") or ()]
    weight = int(definition.get("smoothing") or 0)
    return space.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            space.Section(name=part["name"], panels=[panel_of(panel, found) for panel in part["panels"]], is_open=True)
            for part in sections_of(definition)
        ],
        settings=space.WorkspaceSettings(
            x_axis=STEP, smoothing_type="exponential" if weight else "none", smoothing_weight=weight
        ),
        runset_settings=space.RunsetSettings(groupby=groups, filters=definition.get("filters") or ""),
    )


def report_of(definition: Mapping[str, Any], found: Library, entity: str, project: str, title: str) -> Any:
    """Return the report of a definition: for each section a heading, its text and its panels.

    Where ``entity`` is "" its panels name no project, so that nothing has to be asked of a server.
    """
    reports = found.reports
    where = {"entity": entity, "project": project} if entity else {}
    groups = [key.replace(CONFIG, "config.") for key in definition.get("group_by") or ()]
    blocks = [reports.P(definition["text"])] if definition.get("text") else []
    for part in sections_of(definition):
        runs = reports.Runset(name="Runs", groupby=groups, filters=definition.get("filters") or "", **where)
        blocks.append(reports.H2(part["name"]))
        blocks += [reports.P(part["text"])] if part.get("text") else []
        blocks.append(reports.PanelGrid(runsets=[runs], panels=[panel_of(panel, found) for panel in part["panels"]]))
    return reports.Report(project=project, entity=entity or "nobody", title=title, blocks=blocks, width="fluid")


def sections_of(definition: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sections of a definition.

    Raises:
        VaexError: when there is none, or one has no name, no panels, or another key.
    """
    sections = [dict(part) for part in definition.get("sections") or ()]
    for part in sections:
        for key in part:
            if key not in SECTION_KEYS:
                raise unknown("key in a section of a dashboard", key, SECTION_KEYS)
        if not part.get("name") or not part.get("panels"):
            raise VaexError(f"A section of a dashboard has a name and panels, got {part}.")
    if not sections:
        raise VaexError("A dashboard needs sections, and this one has none; choose dashboard=default.")
    return sections


def _keys(kind: str, value: Any) -> list[str]:
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, Sequence) or not keys or not all(isinstance(key, str) for key in keys):
        raise VaexError(f"A panel '{kind}' of a dashboard takes a list of keys, got {value}.")
    return list(keys)


def _summary(reports: Any, key: str) -> Any:
    """Return a key of config or summary, for panels of one value per run."""
    return reports.Config(key.removeprefix(CONFIG)) if key.startswith(CONFIG) else reports.SummaryMetric(key)


def _attribute(space: Any, key: str) -> Any:
    return space.Config(key.removeprefix(CONFIG)) if key.startswith(CONFIG) else space.Metric(key.capitalize())


def _lines(reports: Any, value: Any, **options: Any) -> Any:
    return reports.LinePlot(x=STEP, y=_keys("lines", value), **options)


def _scatter(reports: Any, value: Any, **options: Any) -> Any:
    if not isinstance(value, Mapping) or set(value) != {"x", "y"}:
        raise VaexError(f"A panel 'scatter' of a dashboard takes {{x: KEY, y: KEY}}, got {value}.")
    return reports.ScatterPlot(x=_summary(reports, value["x"]), y=_summary(reports, value["y"]), **options)


def _parallel(reports: Any, value: Any, **options: Any) -> Any:
    columns = [reports.ParallelCoordinatesPlotColumn(_summary(reports, key)) for key in _keys("parallel", value)]
    return reports.ParallelCoordinatesPlot(columns=columns, **options)


def _bars(reports: Any, value: Any, **options: Any) -> Any:
    return reports.BarPlot(metrics=_keys("bars", value), **options)


def _scalar(reports: Any, value: Any, **options: Any) -> Any:
    return reports.ScalarChart(metric=_keys("scalar", value)[0], **options)


def _pictures(reports: Any, value: Any, **options: Any) -> Any:
    return reports.MediaBrowser(media_keys=_keys("pictures", value), **options)


def _table(reports: Any, value: Any) -> Any:
    return reports.WeavePanelSummaryTable(table_name=_keys("table", value)[0])


def _importance(reports: Any, value: Any) -> Any:
    return reports.ParameterImportancePlot(with_respect_to=_keys("importance", value)[0])


def _text(reports: Any, value: Any) -> Any:
    return reports.MarkdownPanel(markdown=_keys("text", value)[0])


def _runs(reports: Any, value: Any) -> Any:
    if value is not True:
        raise VaexError(f"A panel 'runs' of a dashboard is 'runs: true', got {value}.")
    return reports.RunComparer(diff_only="split")


PANELS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "lines": (_lines, ("title", "log_y")),
    "scatter": (_scatter, ("title", "log_y")),
    "parallel": (_parallel, ("title",)),
    "bars": (_bars, ("title",)),
    "scalar": (_scalar, ("title",)),
    "pictures": (_pictures, ("title",)),
    "table": (_table, ()),
    "importance": (_importance, ()),
    "text": (_text, ()),
    "runs": (_runs, ()),
}
"""What makes a panel of each kind from the library's reports and its value, and the options it takes."""
