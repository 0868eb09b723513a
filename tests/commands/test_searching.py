"""Sweeps that cannot begin, and searches for what no run measures: one sentence, and nothing is trained in vain."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.commands.killing import SMALL
from vaex.cli import main
from vaex.commands.launch import under_hydra
from vaex.commands.objective_watch import names_of_test
from vaex.commands.searching import UnmeasuredError, check_measured
from vaex.commands.train import optimized
from vaex.errors import VaexError

STAGES = {"val": {"loss": 2.0}, "test": {"mig": 0.5}}


@pytest.fixture(autouse=True)
def full_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `vaex.cli` sets it: Hydra raises its errors instead of printing them."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs must be a whole number of at least 1, or",
        ),
        (
            ["hydra.sweeper.max_batch_size=0"],
            "hydra.sweeper.max_batch_size must be a whole number of at least 1, got 0.",
        ),
        (["sweep=optuna_beta", "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs must be a whole number of at least 1"),
        (["sweep=optuna_beta", "hydra.sweeper.n_trials=-1"], "hydra.sweeper.n_trials must be a whole number"),
        (["launcher=submitit"], "launcher=submitit needs SLURM, and its srun and sbatch are not on this machine"),
        (["sweep=optuna_beta", "optimized_metric=factor_vae"], "did you mean 'test/factor_vae'?"),
        (["sweep=optuna_beta", "optimized_metric=train/loss"], "must be val/NAME or test/NAME"),
        (["sweep=optuna_pareto", "test=false"], "is measured by the test, which test=false leaves out"),
    ],
)
def test_a_sweep_that_cannot_begin_is_told_in_one_sentence(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["train", "-m", "seed=0,1", *arguments, f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 1
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("vaex train: ")
    assert expected in told
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_search_ends_with_the_first_job_that_does_not_measure_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[float] = []

    def task(config: DictConfig) -> Any:
        asked.append(config.objective.beta)
        return optimized(config, STAGES)

    sweep = [
        "sweep=optuna_beta",
        "hydra.sweeper.n_trials=5",
        "optimized_metric=test/mgi",
        f"hydra.sweep.dir={tmp_path}",
    ]
    with pytest.raises(VaexError, match=r"^1 of the jobs failed.* so the search ended\.$"):
        under_hydra("train", task, sweep)
    assert len(asked) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vaex train: job 0 ")]
    assert len(told) == 1
    assert "Unknown optimized_metric 'test/mgi': did you mean 'test/mig'?" in told[0]
    under_hydra("train", task, [*sweep[:2], "optimized_metric=test/mig", sweep[3]])  # the same folder, put right
    assert len(asked) == 6


def test_other_processes_leave_the_trials_behind_it(tmp_path: Path) -> None:
    """A job that was told of stops those that come later, whoever runs them."""
    from vaex.commands.jobs import FAILED, Job

    job = Job("train", lambda config: 1.0, (), "vaex")
    (tmp_path / FAILED).mkdir()
    for final in (False, True):
        (tmp_path / FAILED / "0.json").write_text(
            f'{{"sweep": "{job.sweep}", "job": 0, "told": "no", "final": {str(final).lower()}}}'
        )
        assert [told.final for told in job._told(tmp_path)] == [final]


@pytest.mark.slow
def test_a_misspelt_name_is_told_behind_the_first_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = [
        "sweep=optuna_beta",
        "hydra.sweeper.n_trials=3",
        "optimized_metric=val/los",
        f"hydra.sweep.dir={tmp_path}",
    ]
    assert main(["train", *search, *SMALL, "callbacks=[checkpoint]", "logger=none"]) == 1
    printed = capsys.readouterr()
    assert "optimized_metric 'val/los': did you mean 'val/loss'?" in printed.err
    assert [path.name for path in tmp_path.iterdir() if path.name.isdecimal()] == ["0"]
    assert not (tmp_path / "0" / "metrics.json").exists()  # stopped in its first epoch


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("val/loss", None),
        ("val/los", "did you mean 'val/loss'"),
        ("val/image_auroc", "Unknown optimized_metric"),  # val/ has no anomalies here
        ("test/image_auroc", None),
        ("test/image_auroc_kl", None),
        ("test/dci_completeness", None),
        ("test/mig", "is not chosen in metrics"),
        ("test/imge_auroc", "did you mean 'test/image_auroc'"),
        ("test/of_my_own_callback", None),  # told by the first job, if it is not measured
        (["val/loss", "test/los"], "did you mean 'test/loss'"),
    ],
)
def test_what_is_known_behind_a_validation(names: Any, expected: str | None) -> None:
    def look() -> None:
        check_measured(OmegaConf.create({"optimized_metric": names}), ["loss", "kl"], ["image_auroc", "dci"], ["mig"])

    if expected is None:
        look()
        return
    with pytest.raises(UnmeasuredError, match=expected):
        look()


def test_a_test_adds_what_was_chosen() -> None:
    from vaex.data import Sprites

    metrics = {"disentanglement": {"names": ["mig"]}, "faithfulness": {"names": ["deletion"]}}
    tested, absent = names_of_test(metrics, Sprites(size=32))
    assert {"mig", "faithfulness_deletion", "pixel_auroc", "image_auroc"} <= {*tested}
    assert {"factor_vae", "dci", "faithfulness_insertion"} <= {*absent}
    assert not {*tested} & {*absent}
    assert "mig" in names_of_test(metrics, object())[1]  # data without factors
