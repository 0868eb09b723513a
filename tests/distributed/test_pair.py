"""Two processes train and measure as one does on all images: one pair of them does it all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.test_train import SMALL
from tests.distributed.cases import CASES, gradients, measures, own_noise, refusals
from tests.pairs import results, run_pair
from vaex.cli import main

pytestmark = pytest.mark.slow  # two processes that train

CALLBACKS = "callbacks=[attention,checkpoint,traversal,latents,disentanglement,early_stopping]"
RUN = [
    *(word for word in SMALL if not word.startswith(("callbacks", "data.val", "data.test", "data.batch"))),
    *(CALLBACKS, "callbacks.disentanglement.every_n_steps=7", "metrics=disentanglement", "score=mahalanobis"),
    *("data.val=15", "data.test=13", "optim=sgd", "optim.lr=1e-5", "trainer.max_epochs=2"),
]
"""A run on 116 images, with an odd number to validate and to test."""


def command(folder: Path, *more: str) -> int:
    """Train by the command, with noise that belongs to an image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", own_noise)
        return main(["train", *RUN, *more, f"paths.run={folder}"])


def _pair(rank: int, path: str) -> None:
    folder = Path(path)
    found: dict[str, Any] = {
        "gradients": {name: gradients(case, 2, folder / "lightning") for name, case in CASES.items()},
        "measures": measures(2, folder / "lightning"),
        "refusals": refusals(2, folder / "lightning"),
    }
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of the two found."""
    folder = tmp_path_factory.mktemp("pair")
    run_pair(_pair, str(folder))
    return results(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process measures."""
    return measures(1, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_one_process_with_the_joint_batch(name: str, pair: list[Any], tmp_path: Path) -> None:
    expected = gradients(CASES[name], 1, tmp_path)
    assert len(expected) == 2
    for rank in range(2):
        found = pair[rank]["gradients"][name]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            largest = max(float(gradient.abs().max()) for gradient in theirs)
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest, msg=lambda m: f"{name}: {m}")


def test_measures_are_those_of_one_process(pair: list[Any], alone: dict[str, Any]) -> None:
    """Of unevenly many images, in unevenly many batches, with kinds of defects and normal images in one share alone."""
    for rank in range(2):
        for part in ("validate", "test", "uneven iwae", "uneven features"):
            assert pair[rank]["measures"][part] == pytest.approx(alone[part], rel=1e-4, abs=1e-6), part
    assert {"localization/test/aupro_attention", "latents/test/active_units"} <= set(alone["test"])
    assert any("/" in name.removeprefix("localization/test/") for name in alone["test"])  # by kind of defect
    assert "val/iwae" in alone["uneven iwae"]
    assert "val/loss" in alone["uneven features"]


def test_no_image_is_seen_twice_or_left_out(pair: list[Any], alone: dict[str, Any]) -> None:
    assert len(alone["test index"]) % 2
    for stage in ("validate index", "test index"):
        shares = [found["measures"][stage] for found in pair]
        assert sorted(shares[0] + shares[1]) == alone[stage]


def test_all_processes_stop_together(pair: list[Any]) -> None:
    for rank in range(2):
        broken, too_few = pair[rank]["refusals"]
        assert "The validation loss is n" in broken  # nan; in the other process "not finite in another process"
        assert "last good checkpoint is kept" in broken
        assert too_few.startswith("The val split of Uneven has 1 images for 2 processes")


def _commanded(rank: int, path: str) -> None:
    assert command(Path(path), "trainer=ddp_cpu", "data.batch_size=4") == 0


@pytest.mark.slow
def test_the_command_leaves_the_run_of_one_process(tmp_path: Path) -> None:
    run, alone = tmp_path / "pair", tmp_path / "alone"
    run_pair(_commanded, str(run))
    assert command(alone, "data.batch_size=8") == 0
    files = [{str(path.relative_to(base)) for path in base.rglob("*")} for base in (run, alone)]
    assert files[0] == files[1]
    ours, theirs = (json.loads((base / "metrics.json").read_text()) for base in (run, alone))
    for stage in ("val", "test"):
        assert ours[stage] == pytest.approx(theirs[stage], rel=1e-3, abs=1e-4)
    assert {"factor_vae", "mig", "image_auroc"} & set(ours["test"])
    histories = [list(csv.DictReader((base / "metrics.csv").open())) for base in (run, alone)]
    steps = [[(row["step"], bool(row["val/loss"])) for row in history] for history in histories]
    assert steps[0] == steps[1]
    weights = [torch.load(base / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for base in (run, alone)]
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, rtol=1e-4, atol=1e-6)
