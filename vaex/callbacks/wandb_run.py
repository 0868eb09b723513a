"""The wandb logger of a run folder: one wandb run per job, whose numbers stand by section over the training step.

| key | when | what |
|---|---|---|
| train/ val/ test/ attention/ latents/ localization/ disentanglement/ faithfulness/ throughput/ | as logged | numbers, over trainer/global_step |
| attention/<stage>/maps | when the attention callback draws | its picture |
| attention/<stage>/images | the same | each image with its maps, the ground truth as a mask |
| attention/test/extremes | end of a test | table of the most and the least anomalous images with their maps |
| traversal/<stage>/grid, traversal/<stage>/animation | callback traversal | picture and GIF |
| disentanglement/<stage>/mutual_information | callback or metrics disentanglement | picture |
| <stage>/<name> of metrics.json | end of the run | in the summary, under the names that ``optimized_metric`` takes |
"""  # noqa: E501

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from vaex.errors import VaexError
from vaex.runs import CHECKPOINTS, LAST, best_checkpoint, write_json

SECTIONS = (
    *("train", "val", "test", "attention", "latents", "localization", "disentanglement", "faithfulness", "traversal"),
    "throughput",
)
"""First parts of the keys that are logged."""

STEP = "trainer/global_step"
"""The step metric of all of them: training batches that stepped, as in the other loggers."""

REMEMBERED = "wandb.json"
"""File of the run folder that says which wandb run is the folder's."""


class RunWandbLogger(WandbLogger):
    """Log a run folder to wandb, below ``folder``/wandb: Lightning's logger, closed by `close`.

    ``group`` brings runs together whose spread is of interest (seeds), ``job_type`` says what a run does (see `doing`),
    ``tags`` are free. ``offline`` keeps all in the folder, for ``wandb sync``; no account is needed. ``log_model`` is
    false, true (the best checkpoint becomes an artifact at the end of the run, with its calibration) or "all" (the last
    one too, also of a run that failed). A run that is resumed continues its wandb run (see `keep_until`), unless ``id``
    names another. ``options`` go to ``wandb.init``.

    Differs: from Lightning's logger, which stays open behind the run, so that the next job of a sweep would log to it,
    makes every later run of the process offline once one was, and sends checkpoints before their calibration.

    Raises:
        VaexError: for another value of ``log_model``.
    """

    def __init__(
        self,
        folder: str,
        *,
        project: str = "vaex",
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
        log_model: bool | str = False,
        id: str | None = None,  # noqa: A002 - wandb's word
        **options: Any,
    ) -> None:
        if log_model not in (True, False, "all"):
            raise VaexError(f"logger.wandb.log_model must be true, false or all, got '{log_model}'.")
        options = {key: value for key, value in options.items() if value is not None}
        if offline:  # Lightning's own switch would set WANDB_MODE for the rest of the process
            options |= {"mode": "offline", "resume": None}
        options |= {"group": group, "job_type": job_type, "tags": [str(tag) for tag in tags] or None}
        super().__init__(name=name, save_dir=folder, project=project, id=id, **options)
        self._wandb_init.pop("anonymous", None)  # wandb warns of it
        if os.environ.get("WANDB_SWEEP_ID"):  # the sweep has its project, and wandb warns of another
            self._wandb_init.pop("project", None)
        self.folder, self.models = Path(folder), log_model
        self._closed = False

    @rank_zero_only
    def keep_until(self, step: int) -> None:
        """Continue the wandb run that this folder's earlier session logged to, if there is one.

        wandb keeps what it has: rows from ``step`` on that are measured again stand beside the older ones.

        Raises:
            VaexError: when the file that names the run is damaged.
        """
        path = self.folder / REMEMBERED
        if self._id is None and path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                known = None
            if not isinstance(known, dict) or not isinstance(known.get("id"), str):
                raise VaexError(f"{path} is damaged; move it away, and the run goes on as a new one in wandb.")
            self._id = self._wandb_init["id"] = str(known["id"])
            self._wandb_init |= {key: known[key] for key in ("group", "job_type", "tags") if known.get(key)}

    def doing(self, job: str) -> None:
        """Set the job type, such as "train", where none was given."""
        self._wandb_init["job_type"] = self._wandb_init.get("job_type") or job

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run, begun on first use, each section of its numbers drawn over the training step."""
        if self._experiment is None:
            self.folder.mkdir(parents=True, exist_ok=True)  # wandb would write elsewhere
            run: Any = super().experiment
            for section in SECTIONS:
                run.define_metric(f"{section}/*", step_metric=STEP)
            labels = {key: self._wandb_init.get(key) for key in ("project", "group", "job_type", "tags")}
            write_json(self.folder / REMEMBERED, {"id": run.id, **labels})
            self._closed = False
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the config as nested plain values.

        The keys that a wandb sweep set cannot be set again: where one of them names a choice (``objective=vae``), what
        it chose is logged under keys with dots, such as ``objective.beta``.
        """
        run, config = self.experiment, dict(params)
        if getattr(run, "sweep_id", None):
            own = set(run.config.keys())
            chosen = {key: config.pop(key) for key in own & set(config)}
            dotted = {f"{key}.{name}": value for key, part in chosen.items() for name, value in _flat(part).items()}
            config |= {name: value for name, value in dotted.items() if name not in own}
        super().log_hyperparams(config)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Do nothing: `close` sends checkpoints, when they are calibrated."""

    def finalize(self, status: str) -> None:
        """Do nothing: Lightning calls this after each of fit, validate and test, and `close` ends the run."""

    @rank_zero_only
    def log_stages(self, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Put the numbers of metrics.json into the summary, as ``<stage>/<name>``, such as ``test/image_auroc``."""
        flat = {f"{stage}/{name}": value for stage, values in stages.items() for name, value in values.items()}
        self.experiment.summary.update(flat)

    @rank_zero_only
    def close(self, status: str) -> None:
        """End the wandb run: ``status`` is "success" or anything else. A logger that never logged opens none."""
        if self._experiment is None or self._closed:
            return
        self._closed = True
        try:
            if self.models and (status == "success" or self.models == "all"):
                self._send_checkpoints(status)
        finally:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._id, self._experiment = self._experiment.id, None
            self._wandb_init["id"] = self._id  # what is logged from now on goes on there

    def _send_checkpoints(self, status: str) -> None:
        import wandb

        run: Any = self._experiment
        best, last = best_checkpoint(self.folder), self.folder / CHECKPOINTS / LAST
        files = {"last": last if self.models == "all" else None, "best": best if best != last else None}
        for alias, path in files.items():
            if path is None or not path.is_file():
                continue
            artifact = wandb.Artifact(f"model-{run.id}", "model", metadata={"status": status})
            try:
                artifact.add_file(str(path), name=path.name)
                run.log_artifact(artifact, aliases=[alias])
            except (OSError, ValueError) as error:
                rank_zero_warn(f"{path.name} did not become an artifact: {error}")


def _flat(part: Any) -> dict[str, Any]:
    """Return the values of a mapping of mappings by dotted names; nothing for anything else."""
    if not isinstance(part, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, value in part.items():
        inner = _flat(value)
        found |= {f"{name}.{key}": item for key, item in inner.items()} if inner else {str(name): value}
    return found
