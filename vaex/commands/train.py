"""``vaex train``: compose, check, fit, calibrate, test."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.cluster import answer_requeue_signal, was_requeued
from vaex.commands.calibrate import most_images
from vaex.commands.finished import fingerprint, finished_run, leave_out, stand_in, stopped_half_way
from vaex.commands.launch import under_hydra, value_of
from vaex.commands.processes import shared_arguments
from vaex.commands.resuming import keep_config, last_checkpoint, resume_arguments
from vaex.commands.searching import is_search, is_sweep, names_of_objective, unmeasured
from vaex.config import check, idle_keys
from vaex.errors import AbsentDataError, VaexError
from vaex.runs import best_checkpoint

if TYPE_CHECKING:
    from vaex.commands.assembly import Run
    from vaex.commands.record import RunRecord

KEEPS_NOTHING = (
    "callbacks has no checkpoint, so nothing is kept to resume from or to evaluate; "
    "callbacks=[attention,checkpoint] keeps it."
)
"""Said before a training that writes no weights."""

NEVER_VALIDATED = (
    "the run ended before its first validation and test=false leaves out the test; a smaller "
    "trainer.val_check_interval validates within the run."
)

OTHER_DATA = (
    "vaex train: the data is not that of the start of this run: files or masks have changed; {file} keeps the checksum "
    "of the start, and that of now beside this session."
)
"""Said where a run goes on, and the images to train on and those held out are the same or not known."""

Optimized = float | tuple[float, ...] | None


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    arguments = shared_arguments(arguments)
    if not (folder := value_of(arguments, "resume")):
        under_hydra("train", fit_and_test, arguments, outcome=measured)
        return
    with resume_arguments(Path(folder).expanduser(), arguments) as changed:
        under_hydra("train", fit_and_test, changed, typed=arguments, outcome=measured)


def fit_and_test(config: DictConfig) -> Optimized:
    """Fit, calibrate, validate and test the best weights; return what ``optimized_metric`` names.

    With ``skip_finished`` a run that finished before is not repeated, what it measured is returned; one that stopped
    half-way in the same folder goes on.
    """
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    folder, identity = Path(config.paths.run), fingerprint(resolved)
    finished, resuming = earlier_run(config, folder, identity)
    if finished is not None:
        print(f"vaex train: skipped: this run finished in {finished}", file=sys.stderr)
        stand_in(folder, finished)
        return measured(config, finished)
    most_images(config)
    answer_requeue_signal()
    # From here on torch is imported
    from vaex.commands import assembly
    from vaex.commands.alone import alone_in
    from vaex.commands.interruption import ending_signals
    from vaex.commands.record import write_metrics
    from vaex.commands.trained_on import check_resumed
    from vaex.scores import needs_calibration

    calibrating = bool(config.get("calibrate", True))  # a run from before the key is resumed with it
    if needs_calibration(resolved["score"]) and not calibrating:
        raise VaexError(f"score={config.score.name} needs a calibrated model; leave calibrate=true.")
    last = last_checkpoint(folder) if resuming else None
    run = assembly.assemble(config, resume=last)
    if not run.trainer.is_global_zero:
        run.fit(last)
        if calibrating:
            run.calibrate(folder)
        return optimized(config, run.test_best(folder)[1])
    told = [f"{key} is set but was not chosen, so it has no effect." for key in idle_keys(resolved)]
    for sentence in [*told, *([] if run.keeps_checkpoints else [KEEPS_NOTHING])]:
        print(f"vaex train: {sentence}", file=sys.stderr)
    # a missing data set should be told before anything is written
    try:
        run.data.prepare_data()
    except AbsentDataError as error:
        if not config.get("skip_absent"):
            raise
        leave_out(folder, str(error), once=is_sweep())
        return None
    check_resumed(last, run.data)
    with alone_in(folder), ending_signals() as signals:
        record = begun_record(config, run, last, identity)
        with record:
            try:
                run.fit(last)
                if calibrating:
                    run.calibrate(folder)
                title, stages = run.test_best(folder)
            except (KeyboardInterrupt, SystemExit) as stop:
                again = shlex.join(["vaex", "train", f"resume={folder}"])
                print(f"Stopped at step {run.trainer.global_step}. Continue with: {again}", file=sys.stderr)
                number = signals.behind(stop, vars(run.trainer)["callbacks"])
                if number is None:
                    raise
                raise SystemExit(128 + number) from None
            write_metrics(folder, **stages)
            best = best_checkpoint(folder)
            record.content["best_checkpoint"] = None if best is None else str(best.relative_to(folder))
    report(folder, stages, title, record.content.get("resolution"), page=config.get("report", True))
    return optimized(config, stages)


def begun_record(config: DictConfig, run: Run, last: Path | None, identity: str) -> RunRecord:
    """Return the run.json of a training that begins, or goes on from ``last``; its checkpoints remember its images."""
    from vaex.commands.record import RunRecord
    from vaex.commands.trained_on import remember

    folder = Path(config.paths.run)
    if config.resume:
        keep_config(folder, config)
    record = RunRecord(folder, command_line(), config.seed, run.data, goes_on=last is not None)
    record.content |= {"config": identity, "resolution": compared_at(config, run.data)}
    if record.other_data:
        print(OTHER_DATA.format(file=record.path), file=sys.stderr)
    remember(run.module, run.data, last)
    return record


def earlier_run(config: DictConfig, folder: Path, key: str) -> tuple[Path | None, bool]:
    """Return the folder of a finished run that this one would repeat, and else whether this one goes on.

    That is asked with ``skip_finished``, and of ``folder`` alone where SLURM runs the job again.
    """
    skip, again = bool(config.get("skip_finished")), was_requeued()
    if config.resume or not (skip or again):
        return None, bool(config.resume)
    finished = finished_run(key, folder, *([Path(config.paths.output)] if skip else []))
    stopped = finished is None and stopped_half_way(folder, key)
    if stopped:
        print(f"vaex train: this run stopped half-way and goes on in {folder}", file=sys.stderr)
    return finished, stopped


def command_line() -> str:
    """Return the command as the user may type it again."""
    return shlex.join(["vaex", *sys.argv[1:]])


def measured(config: DictConfig, folder: Path) -> Optimized:
    """Return what ``optimized_metric`` names out of the metrics.json of a finished run."""
    return optimized(config, json.loads((folder / "metrics.json").read_text()))


def optimized(config: DictConfig, stages: Mapping[str, Mapping[str, float]]) -> Optimized:
    """Return the value that a sweeper optimises, such as ``val/loss`` or ``test/image_auroc``; of a list one for each.

    None when one of them was not measured or is no finite number. A search is told; nobody asked for it elsewhere.

    Raises:
        UnmeasuredError: in a search, which could learn from no other run either.
    """
    names = config.optimized_metric
    if not names:
        return None
    found = []
    for full in names_of_objective(config):
        stage, _, name = full.partition("/")
        value = stages.get(stage, {}).get(name, math.nan)
        if value is not None and math.isfinite(value):  # metrics.json has no NaN
            found.append(value)
            continue
        if is_search() and name not in stages.get(stage, {}):
            raise unmeasured(full, [f"{s}/{n}" for s, values in stages.items() for n in sorted(values)])
        if is_search():
            print(f"vaex train: optimized_metric={full} is no finite number.", file=sys.stderr)
        return None
    return found[0] if isinstance(names, str) else tuple(found)


def compared_at(config: DictConfig, data: Any) -> int | None:
    """Return the pixels a side at which maps and masks are compared: ``metrics.resolution``, else that of images."""
    shape, metrics = getattr(data, "shape", None), config.get("metrics") or {}
    side: int | None = metrics.get("resolution") or (shape[1] if shape else None)
    return side


def report(
    folder: Path, stages: dict[str, dict[str, float]], title: str, resolution: int | None, page: bool = True
) -> None:
    """Print a table of the numbers, the run folder and the pictures worth opening; ``page``: also write the report.

    Below stands at which ``resolution``, pixels a side, maps were compared with masks, and why a number is NaN.
    Numbers of one kind of defect are in metrics.json alone.
    """
    from rich.console import Console
    from rich.table import Table

    from vaex.reporting.resolution import measured_at
    from vaex.reporting.undefined import undefined_sentence

    console = Console()
    told = [
        measured_at(resolution, (name for values in stages.values() for name in values)),
        *{undefined_sentence(values) for values in stages.values()},
    ]
    table = Table("measure", *stages, title=title)
    for name in sorted({name for values in stages.values() for name in values if "/" not in name}):
        table.add_row(name, *(f"{values[name]:.4f}" if name in values else "" for values in stages.values()))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"Nothing was measured: {NEVER_VALIDATED}", soft_wrap=True, highlight=False)
    for sentence in filter(None, told):
        console.print(sentence, soft_wrap=True, highlight=False)
    pictures = sorted((folder / "figures").glob("*.png"))
    tests = [path for path in pictures if "test" in path.name]
    console.print(f"Run folder: {folder}", soft_wrap=True, highlight=False)
    for path in (tests + [p for p in pictures if p not in tests][-1:])[:3]:
        console.print(f"Picture:    {path}", soft_wrap=True, highlight=False)
    if page:
        from vaex.commands.report import try_report

        if (written := try_report(folder)) is not None:
            console.print(f"Report:     {written}", soft_wrap=True, highlight=False)
