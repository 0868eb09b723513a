"""``vaex bench what=scoring``: how long the scores of given runs take, beside their encoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vaex.commands.options import names_option, positive
from vaex.commands.sources import at_least_one, pick_device
from vaex.errors import VaexError
from vaex.runs import find_checkpoint


def bench_scoring(config: DictConfig) -> None:
    """Measure each run of ``runs``: its own score and those that were measured beside it."""
    from vaex.commands.bench import origin, tell, wide_console, write

    rounds, budget = at_least_one(config.rounds, "rounds"), positive(config.budget, "budget")
    runs = names_option(config.runs, "runs")
    if runs is None:
        raise VaexError("Name trained runs: vaex bench what=scoring runs=[RUN_FOLDER,RUN_FOLDER].")
    for folder in runs:
        find_checkpoint(folder)
    from vaex.benchmarks.scoring import run_scoring, scoring_content, scoring_table
    from vaex.benchmarks.table import show_table
    from vaex.benchmarks.timing import one_thread
    from vaex.build import load
    from vaex.config import stored_config
    from vaex.scores import measured_scores

    device = pick_device(config.device)
    with one_thread():
        content: dict[str, Any] = {**origin(), "rounds": rounds, "runs": []}
    tables = []
    for folder in runs:
        model = load(folder).to(device)
        stored = stored_config(model.config.get("run") or {})
        beside = stored.get("metrics", {}).get("scores") or ()
        decides = model.calibration.get("score") or stored.get("score") or "attention"
        scores = measured_scores(decides, beside or [decides])
        result = run_scoring(Path(folder).name, model, scores, stored.get("attention") or {}, rounds, budget)
        tables.append(scoring_table(result))
        content["runs"].append(scoring_content(result))
        show_table(tables[-1], wide_console())
        files = write(config, tables, content)
    tell(files)
