"""What a run sends to wandb, read back from the record file of an offline run, block by block."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vaex
from vaex.callbacks.history import RunCSVLogger
from vaex.callbacks.wandb_run import SECTIONS, STEP, RunWandbLogger
from vaex.cli import main
from vaex.data import Defects
from vaex.errors import VaexError

Records = Callable[[Path], list[Any]]

DATA: dict[str, Any] = {"size": 32, "channels": 1, "train": 16, "val": 4, "test_good": 5, "test_defects": 3}
SMALL = [
    *("data=defects", *(f"data.{key}={value}" for key, value in DATA.items()), "data.kinds=[scratch,spot]"),
    *("data.batch_size=4", "network.width=4", "network.depth=3", "network.hidden=8", "network.latents=3"),
    *("trainer.max_epochs=1", "trainer.log_every_n_steps=1", "logger=[csv,wandb]", "logger.wandb.offline=true"),
]


def train(folder: Path, *overrides: str) -> int:
    return main(["train", *SMALL, *overrides, f"hydra.run.dir={folder}"])


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """wandb keeps the files of artifacts in the user's folders, and is told by the environment where to send."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Path:
    """A run with three loggers and its table, pictures, GIF and best checkpoint."""
    folder = tmp_path_factory.mktemp("wandb") / "run"
    options = [
        *("logger=[csv,wandb,tensorboard]", "logger.wandb.log_model=true", "logger.wandb.notes=why"),
        *("callbacks=[attention,checkpoint,traversal]", "callbacks.traversal.steps=3"),
        *("callbacks.attention.table_images=3", "callbacks.attention.figure_images=2"),
    ]
    assert train(folder, *options) == 0
    assert "WANDB_MODE" not in os.environ  # the next run of this process may be online
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, wandb_records: Records) -> Any:
    (records,) = wandb_records(folder)
    return records


def test_one_closed_run_with_its_labels(folder: Path, run: Any) -> None:
    assert run.exit_code == 0
    assert (run.run.project, run.run.display_name, run.run.run_group) == ("vaex", "beta_vae", "beta_vae")
    assert (run.run.job_type, run.run.notes, list(run.run.tags)) == ("train", "why", ["Defects", "conv", "beta_vae"])
    assert json.loads((folder / "wandb.json").read_text())["id"] == run.run.run_id


def test_the_config_is_logged_once_as_plain_values(folder: Path, run: Any) -> None:
    expected = yaml.safe_load((folder / "hparams.yaml").read_text())  # what the csv logger wrote
    assert {key: run.config[key] for key in expected} == expected
    assert "${" not in json.dumps(run.config)


def test_numbers_are_those_of_the_csv(folder: Path, run: Any) -> None:
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [name for name in table[0] if name not in ("step", "epoch")]
    assert {"train/loss", "val/loss", "attention/val/overlap", "localization/test/pixel_auroc_attention"} <= set(names)
    for name in names:
        expected = [(int(row["step"]), float(row[name])) for row in table if row[name]]
        found = [(row[STEP], row[name]) for row in run.rows(name)]
        assert [step for step, _ in found] == [step for step, _ in expected], name
        assert [float(value) for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6), name


def test_every_key_has_its_section_over_the_training_step(run: Any) -> None:
    keys = {key for row in run.history for key in row if not key.startswith("_")} - {STEP, "epoch"}
    assert {key.split("/")[0] for key in keys} <= set(SECTIONS)
    assert {"train", "val", "test", "attention", "localization", "traversal"} <= {key.split("/")[0] for key in keys}
    assert {pattern: run.step_metrics.get(pattern) for pattern in run.step_metrics if "/*" in pattern} == {
        f"{section}/*": STEP for section in SECTIONS
    }
    pictures = [row[STEP] for row in run.rows("attention/val/images")]
    assert pictures == [row[STEP] for row in run.rows("attention/val/overlap")]


def test_the_summary_holds_metrics_json(folder: Path, run: Any) -> None:
    for stage, values in json.loads((folder / "metrics.json").read_text()).items():
        for name, value in values.items():
            assert run.summary[f"{stage}/{name}"] == pytest.approx(value, rel=1e-6), name


def pixels(folder: Path, path: str) -> Any:
    (found,) = folder.glob(f"wandb/offline-run-*/files/{path}")
    with Image.open(found) as picture:
        return np.asarray(picture)


def test_pictures_carry_the_ground_truth_as_masks(folder: Path, run: Any) -> None:
    data = Defects(**DATA, kinds=["scratch", "spot"])
    data.setup("test")
    batch = data.test_set.__getitems__(list(range(len(data.test_set))))
    shown_rows = [int((batch["label"] == label).nonzero()[0]) for label in (0, 1)]  # the first of both kinds
    (row,) = run.rows("attention/test/images")
    shown = row["attention/test/images"]
    assert len(shown["filenames"]) == 2
    for n, path, masks in zip(shown_rows, shown["filenames"], shown["all_masks"], strict=True):
        picture, mask = pixels(folder, path), pixels(folder, masks["ground_truth"]["path"])
        panels = 2 + 3  # the image, its score map, three latents
        assert picture.shape == (128, panels * 128, 3)
        expected = np.kron(batch["mask"][n, 0].numpy().astype(np.uint8), np.ones((4, 4), np.uint8))
        assert np.array_equal(mask, np.tile(expected, (1, panels)))
        image = np.rint(batch["image"][n, 0].numpy() * 255).astype(np.uint8)
        assert np.array_equal(picture[:, :128, 0], np.kron(image, np.ones((4, 4), np.uint8)))
    labels = run.config["_wandb"]["mask/class_labels"].values()
    assert all(item["value"] == {"0": "background", "1": "ground truth"} for item in labels)


def test_the_table_holds_the_most_and_the_least_anomalous(folder: Path, run: Any) -> None:
    assert len(run.rows("attention/test/extremes")) == 1
    (artifact,) = [artifact for artifact in run.artifacts if artifact.type == "run_table"]
    files = {content.path: Path(content.local_path) for content in artifact.manifest.contents}
    table = json.loads(files["attention/test/extremes.table.json"].read_text())
    assert table["columns"] == ["end", "rank", "index", "label", "kind", "score", "maps"]
    data = Defects(**DATA, kinds=["scratch", "spot"])
    data.setup("test")
    batches = list(data.test_dataloader())
    images, labels = (torch.cat([batch[key] for batch in batches]) for key in ("image", "label"))
    scores = torch.cat([vaex.explain(vaex.load(folder), image[None]).score for image in images])
    order = scores.argsort(descending=True).tolist()
    expected = [*(("most", n + 1, order[n]) for n in range(3)), *(("least", n + 1, order[-1 - n]) for n in range(3))]
    assert [tuple(cells[:3]) for cells in table["data"]] == expected
    for _, _, place, label, kind, score, picture in table["data"]:
        assert label == int(labels[place])
        assert (kind == "good") == (label == 0)
        assert score == pytest.approx(float(scores[place]), rel=1e-3)
        with Image.open(files[picture["masks"]["ground_truth"]["path"]]) as mask:
            assert bool(np.asarray(mask).any()) == (label == 1)


def test_traversals_are_moving_pictures(folder: Path, run: Any) -> None:
    (row,) = run.rows("traversal/test/animation")
    (video,) = row["traversal/test/animation"]["videos"]
    with Image.open(next(folder.glob(f"wandb/offline-run-*/files/{video['path']}"))) as moving:
        assert moving.format == "GIF"
        assert getattr(moving, "n_frames", 1) > 1


def test_the_best_checkpoint_is_an_artifact_with_its_calibration(folder: Path, run: Any) -> None:
    (model,) = [artifact for artifact in run.artifacts if artifact.type == "model"]
    (content,) = model.manifest.contents
    assert (content.path, set(model.aliases)) == ("best.ckpt", {"best", "latest"})
    kept = torch.load(content.local_path, weights_only=True)
    assert kept["calibration"]
    assert Path(content.local_path).read_bytes() == (folder / "checkpoints" / "best.ckpt").read_bytes()


def test_the_other_loggers_got_the_same(folder: Path, run: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert found == pytest.approx({row[STEP]: row["train/loss"] for row in run.rows("train/loss")})


@pytest.mark.slow
def test_each_job_of_a_sweep_has_its_own_run(
    tmp_path: Path, wandb_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(RunCSVLogger, "log_hyperparams", lambda self, params: configs.append(params))
    options = ["callbacks=[]", "calibrate=false", "test=false", "optim.lr=0.01,1e30"]
    assert main(["train", "-m", *SMALL, *options, f"hydra.sweep.dir={tmp_path / 'lrs'}"]) == 1
    good, bad = wandb_records(tmp_path)
    assert good.run.run_id != bad.run.run_id
    assert (good.run.run_group, bad.run.run_group) == ("lrs", "lrs")
    assert good.config["optim"]["lr"] == 0.01
    assert (good.exit_code, bad.exit_code) == (0, 1)  # the loss of the second one is not finite
    assert not [artifact for artifact in good.artifacts if artifact.type == "model"]
    assert good.rows("train/loss")
    assert [(type(config), config["optim"]["lr"]) for config in configs] == [(dict, 0.01), (dict, 1e30)]  # once each


def test_a_resumed_run_continues_its_wandb_run(tmp_path: Path, wandb_records: Records) -> None:
    folder = tmp_path / "run"
    options = ["callbacks=[checkpoint]", "calibrate=false", "test=false", "logger.wandb.group=mine"]
    assert train(folder, *options) == 0
    assert main(["train", f"resume={folder}", "trainer.max_epochs=2"]) == 0
    first, second = wandb_records(folder)
    assert first.run.run_id == second.run.run_id
    assert (second.run.run_group, list(second.run.tags)) == ("mine", ["Defects", "conv", "beta_vae"])
    steps = [row[STEP] for records in (first, second) for row in records.rows("train/loss")]
    assert steps == list(range(8))


@pytest.mark.parametrize("content", ['{"id": "abc', "[1]", '{"group": "x"}', '{"id": 7}', "\xff" * 3])
def test_a_damaged_note_of_the_wandb_run_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text(content, encoding="latin-1")
    with pytest.raises(VaexError, match=r"wandb\.json is damaged; move it away"):
        RunWandbLogger(str(tmp_path), offline=True).keep_until(3)


def test_without_an_account_the_run_ends_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc of whoever runs the test
    wandb.teardown()
    assert train(tmp_path / "run", "logger.wandb.offline=false", "calibrate=false", "test=false") == 1
    error = capsys.readouterr().err
    assert "No API key configured" in error
    assert "logger.wandb.offline=true needs no account" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_two_processes_send_one_run(tmp_path: Path, wandb_records: Records) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "vaex", "train", *SMALL, "trainer=ddp_cpu", "callbacks=[attention,checkpoint]"]
    options = ["trainer.max_epochs=1", "trainer.log_every_n_steps=1", "callbacks.attention.table_images=3"]
    folder = tmp_path / "run"
    options.append(f"hydra.run.dir={folder}")
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (records,) = wandb_records(tmp_path)
    assert records.exit_code == 0
    assert records.rows("train/loss")
    (artifact,) = [artifact for artifact in records.artifacts if artifact.type == "run_table"]
    files = {content.path: Path(content.local_path) for content in artifact.manifest.contents}
    table = json.loads(files["attention/test/extremes.table.json"].read_text())
    data = Defects(**DATA, kinds=["scratch", "spot"])
    data.setup("test")
    images = torch.cat([batch["image"] for batch in data.test_dataloader()])
    model = vaex.load(folder)
    order = torch.cat([vaex.explain(model, image[None]).score for image in images]).argsort(descending=True).tolist()
    assert [cells[2] for cells in table["data"]] == [*order[:3], *order[::-1][:3]]  # of both processes' images


def test_an_unknown_way_to_log_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match="log_model must be true, false or all, got 'best'"):
        RunWandbLogger(str(tmp_path), log_model="best")


def test_a_logger_that_never_logged_opens_no_run(tmp_path: Path) -> None:
    logger = RunWandbLogger(str(tmp_path), offline=True)
    logger.close("success")
    assert not list(tmp_path.iterdir())
