"""`vaex dashboard`: the requests it sends, taken in by a server on this machine, and the errors that one may give."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from vaex.cli import main
from vaex.config import conf_dir
from vaex.errors import VaexError
from vaex.reporting.dashboards import PANELS, library, panel_of, sections_of

KEY = "0123456789abcdef" * 2 + "01234567"
DEFINITION: dict[str, Any] = yaml.safe_load((conf_dir() / "dashboard" / "default.yaml").read_text())
PANEL_TYPES = {  # wandb's names of what the definition calls otherwise
    "lines": "Run History Line Plot",
    "scatter": "Scatter Plot",
    "bars": "Bar Chart",
    "pictures": "Media Browser",
    "parallel": "Parallel Coordinates Plot",
    "importance": "Parameter Importance",
    "runs": "Run Comparer",
    "table": "Weave",
    "scalar": "Scalar Chart",
    "text": "Markdown Panel",
}


class Stub(ThreadingHTTPServer):
    """Answers as wandb's server does and keeps what it was asked; ``project`` is what it knows of the project."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[dict[str, Any], str]] = []
        self.project: Any = {"id": "UHJvamVjdDox", "internalId": "UHJvamVjdDox"}

    def views(self, kind: str) -> list[dict[str, Any]]:
        """Return the variables of the views of one type that were to be saved."""
        found = [asked["variables"] for asked, _ in self.asked if "upsertView" in asked["query"]]
        return [variables for variables in found if variables["type"] == kind]


class Answering(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            self.server.asked.append((json.loads(content), self.headers.get("authorization", "")))
            pages = {"edges": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}
            view = {"id": "Vmlldzox", "name": "nw-new-v", "type": "runs", "displayName": "", "description": ""}
            project = {"id": "UHJvamVjdDox", "name": "vaex", "entityName": "ada"}
            view |= {"project": project, "spec": "{}", "updatedAt": "2026-01-01T00:00:00"}  # type: ignore[dict-item]
            answer = {
                "viewer": {"id": "VXNlcjox", "entity": "ada", "username": "ada", "flags": "{}", "teams": pages},
                "project": self.server.project,
                "models": pages,
                "projects": pages,
                "upsertModel": {"model": project, "project": project, "inserted": True},
                "upsertView": {"view": view, "inserted": True},
            }
        text = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server in wandb's place; wandb's own settings and processes are those of this test."""
    import wandb

    stub = Stub()
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{stub.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield stub
    wandb.teardown()
    stub.shutdown()
    stub.server_close()


def panels(bank: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(part["name"], panel["viewType"], panel["config"]) for part in bank["sections"] for panel in part["panels"]]


def wanted() -> list[tuple[str, str]]:
    kinds = [
        (part["name"], next(key for key in panel if key in PANEL_TYPES))
        for part in DEFINITION["sections"]
        for panel in part["panels"]
    ]
    return [(name, PANEL_TYPES[kind]) for name, kind in kinds]


@pytest.mark.slow
def test_a_workspace_and_a_report_are_sent(server: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "project=shapes", "name=Maps", "dashboard.group_by=[group,config:objective.beta]"]) == 0
    (workspace,), (report,) = server.views("project-view"), server.views("runs")
    for sent in (workspace, report):
        assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("ada", "shapes", "Maps")
    header = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
    assert {given for asked, given in server.asked if "upsertView" in asked["query"]} == {header}

    section = json.loads(workspace["spec"])["section"]
    found = panels(section["panelBankConfig"])
    assert [(name, kind) for name, kind, _ in found] == wanted()
    assert section["settings"]["xAxis"] == "trainer/global_step"
    keys = [(group["section"], group["name"]) for group in section["runSets"][0]["grouping"]]
    assert keys == [("run", "group"), ("config", "objective.value.beta")]
    shown = {config.get("chartTitle"): config for _, _, config in found}
    assert shown["Images, score maps and maps of latents"]["mediaKeys"] == [
        "attention/val/images",
        "attention/test/images",
    ]
    losses = shown["KL, nats per image"]
    assert (losses["metrics"], losses["xAxis"]) == (["train/kl", "val/kl"], "trainer/global_step")
    assert losses["yLogScale"] is True
    (parallel,) = [config for _, kind, config in found if kind == "Parallel Coordinates Plot"]
    assert [column["accessor"] for column in parallel["columns"]][:2] == [
        "config:objective.value.beta",
        "config:network.value.latents",
    ]
    assert shown["Localisation against detection"]["xAxis"] == "summary:test/aupro"

    blocks = json.loads(report["spec"])["blocks"]
    heads = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert heads == [part["name"] for part in DEFINITION["sections"]]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    inside = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    assert [panel["viewType"] for panel in inside] == [kind for _, kind in wanted()]
    assert {run["project"]["name"] for grid in grids for run in grid["runSets"]} == {"shapes"}
    for grid in grids:  # wandb draws panels of one place over each other
        places = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
        cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
        assert len(cells) == len(set(cells))
    out = capsys.readouterr().out
    assert "Workspace: http://127.0.0.1" in out
    assert "Report: http://127.0.0.1" in out


def test_a_project_that_wandb_does_not_know_is_told(server: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    server.project = None
    assert main(["dashboard", "project=nowhere", "entity=team", "workspace=false"]) == 1
    error = capsys.readouterr().err
    assert "wandb did not take the dashboard of project nowhere" in error
    assert "log a run there first" in error
    assert "Traceback" not in error
    assert not server.views("runs")


def test_without_an_account_it_says_what_to_do(
    server: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["dashboard"]) == 1
    error = capsys.readouterr().err
    assert "wandb cannot be asked (" in error
    assert "out=FOLDER" in error
    assert not server.asked


def test_written_to_files_it_asks_nobody(server: Stub, tmp_path: Path) -> None:
    assert main(["dashboard", f"out={tmp_path / 'out'}"]) == 0
    workspace, report = (
        json.loads((tmp_path / "out" / f"{kind}.json").read_text()) for kind in ("workspace", "report")
    )
    assert [(name, kind) for name, kind, _ in panels(workspace["section"]["panelBankConfig"])] == wanted()
    assert [block["type"] for block in report["blocks"]].count("panel-grid") == len(DEFINITION["sections"])
    assert not server.asked


def test_every_key_of_the_definition_is_one_that_is_logged() -> None:
    """The sections are those of the logger, and a key of the config is one of the composed config."""
    from vaex.callbacks.wandb_run import SECTIONS

    keys = [key for part in DEFINITION["sections"] for panel in part["panels"] for key in _strings(panel)]
    for key in keys:
        assert key.startswith("config:") or key.split("/")[0] in SECTIONS, key


def _strings(panel: dict[str, Any]) -> list[str]:
    (value,) = [value for name, value in panel.items() if name in PANELS and name not in ("text", "runs")] or [[]]
    values = value.values() if isinstance(value, dict) else [value] if isinstance(value, str) else value
    return list(values)


def test_the_panels_of_faithfulness_are_what_a_test_measures() -> None:
    from vaex.metrics.faithfulness import MEASURES

    keys = {key for part in DEFINITION["sections"] for panel in part["panels"] for key in _strings(panel)}
    shown = {key.removeprefix("test/faithfulness_") for key in keys if key.startswith("test/faithfulness_")}
    assert shown == {*MEASURES, "deletion_to_normal"}


@pytest.mark.parametrize("kind", PANELS)
def test_every_kind_of_panel_is_made(kind: str) -> None:
    value: Any = {"scatter": {"x": "a", "y": "config:b"}, "runs": True}.get(kind, ["a"])
    model = panel_of({kind: value}, library())._to_model()
    assert model.view_type == PANEL_TYPES[kind]


@pytest.mark.parametrize(
    ("panel", "words"),
    [
        ({"line": ["a"]}, "Unknown kind of panel in a dashboard 'line': did you mean 'lines'"),
        ({"title": "x"}, "A panel of a dashboard is of one kind"),
        ({"lines": ["a"], "bars": ["a"]}, "A panel of a dashboard is of one kind"),
        ({"lines": []}, "takes a list of keys"),
        ({"lines": [3]}, "takes a list of keys"),
        ({"scatter": ["a", "b"]}, r"takes \{x: KEY, y: KEY\}"),
        ({"bars": ["a"], "log_y": True}, "A panel 'bars' of a dashboard takes no log_y"),
        ({"runs": "all"}, "'runs: true', got all"),
    ],
)
def test_a_panel_that_cannot_be_read_is_told(panel: dict[str, Any], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        panel_of(panel, library())


def test_sections_that_cannot_be_read_are_told() -> None:
    for sections, words in (
        ([], "needs sections"),
        ([{"name": "a", "panels": []}], "has a name and panels"),
        ([{"nmae": "a"}], "did you mean 'name'"),
    ):
        with pytest.raises(VaexError, match=words):
            sections_of({"sections": sections})


def test_filters_that_cannot_be_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", f"out={tmp_path}", "dashboard.filters=foo bar"]) == 1
    assert "dashboard.filters cannot be read: write it like" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_to_make_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "workspace=false", "report=false"]) == 1
    assert "Nothing to make" in capsys.readouterr().err


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(VaexError, match="pip install wandb-workspaces"):
        library()
