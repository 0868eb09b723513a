"""``vaex dashboard``: a workspace and a report in a wandb project, from a definition in the config."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import under_hydra
from vaex.errors import VaexError

FILTERS = (
    "dashboard.filters cannot be read: write it like \"Config('objective.name') = 'beta_vae' and State = 'finished'\"."
)


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    under_hydra("dashboard", make_dashboard, arguments)


def make_dashboard(config: DictConfig) -> None:
    """Send the workspace and the report of the config to wandb, or write them to ``out``.

    Raises:
        VaexError: for a definition that cannot be read; without an account; when wandb refuses, or does not know the
            project.
    """
    from vaex.reporting.dashboards import library, report_of, workspace_of

    definition: Any = OmegaConf.to_container(config.dashboard, resolve=True)
    found, project, name = library(), str(config.project), str(config.name)
    makers = {"workspace": workspace_of, "report": report_of}
    chosen = {kind: make for kind, make in makers.items() if config[kind]}
    if not chosen:
        raise VaexError("Nothing to make: set workspace=true, report=true, or both.")
    if config.out is not None:
        entity = str(config.entity or "")
        specs = {kind: make(definition, found, entity, project, name) for kind, make in chosen.items()}
        if "report" in specs:  # one whose runs name no project asks no server
            specs["report"] = report_of(definition, found, "", project, name)
        write_specs(Path(config.out), specs)
        return
    entity = str(config.entity or _asked(_default_entity, project))
    for kind, make in chosen.items():
        made = _asked(functools.partial(_saved, make, definition, found, entity, project, name), project)
        print(f"{kind.capitalize()}: {made.url}")


def write_specs(folder: Path, specs: dict[str, Any]) -> None:
    """Write the spec of each workspace and report as ``folder``/<kind>.json.

    Raises:
        VaexError: for filters that cannot be read, which wandb-workspaces parses as Python.
    """
    from vaex.runs import write_json

    for kind, made in specs.items():
        try:
            text = made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
        except SyntaxError as error:
            raise VaexError(FILTERS) from error
        write_json(folder / f"{kind}.json", json.loads(text))
        print(f"{kind.capitalize()}: {folder / kind}.json")


def _saved(make: Callable[..., Any], *what: Any) -> Any:
    return make(*what).save()


def _default_entity() -> str:
    import wandb

    entity = wandb.Api().default_entity
    if not entity:
        raise VaexError("Your wandb account has no default entity: name one, entity=USER_OR_TEAM.")
    return str(entity)


def _asked(ask: Callable[[], Any], project: str) -> Any:
    """Return what ``ask`` gets of wandb's server, its errors as one sentence."""
    import wandb

    try:
        return ask()
    except VaexError:
        raise
    except SyntaxError as error:
        raise VaexError(FILTERS) from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, wandb.errors.UsageError | wandb.errors.AuthenticationError):
            raise VaexError(
                f"wandb cannot be asked ({first.rstrip('.')}): check the connection and run `wandb login`, or write "
                "what would be sent with out=FOLDER."
            ) from error
        raise VaexError(
            f"wandb did not take the dashboard of project {project} ({first}): log a run there first, and check "
            "project= and entity=."
        ) from error
