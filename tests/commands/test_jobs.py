"""Jobs of a sweep under every launcher and sampler; the tasks are functions of the config, so nothing is trained."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from vaex.cli import main
from vaex.commands.job_arguments import again, run_telling, starts_processes
from vaex.commands.jobs import Job
from vaex.commands.launch import first_value, under_hydra
from vaex.commands.searching import UnmeasuredError
from vaex.commands.train import optimized
from vaex.config import check
from vaex.errors import VaexError
from vaex.sentences import sentence


@pytest.fixture(autouse=True)
def full_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `vaex.cli` sets it: Hydra raises its errors instead of printing them."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


_SLEEPING_SWEEP = """
import os, pathlib, signal, sys, time
from vaex.commands.launch import under_hydra

def task(config):
    if "SUBMITIT_EXECUTOR" in os.environ:  # which would ignore it; a training has a handler of its own
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pathlib.Path(f"{os.getpid()}.pid").touch()
    time.sleep(600)

under_hydra("train", task, ["-m", "seed=0", *sys.argv[1:]])
"""
"""A sweep of one job that trains nothing."""

SLOW = [pytest.param(launcher, marks=pytest.mark.slow) for launcher in ("joblib", "submitit_local")]  # processes


@pytest.mark.parametrize("launcher", ["basic", *SLOW])
def test_failed_jobs_name_themselves_and_the_others_go_on(
    launcher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The task is `vaex.config.check`, which any process can import and which refuses seeds below 0."""
    folder = tmp_path / "a sweep, of mine"
    common = ["test=false", "data.color='white'", f"launcher={launcher}", f"hydra.sweep.dir='{folder}'"]
    with pytest.raises(VaexError, match=r"^2 of the jobs failed; each is named above\.$"):
        under_hydra("train", check, ["-m", "seed=-1,0,-2", *common])
    told = [line for line in capfd.readouterr().err.splitlines() if " failed: " in line]
    assert sorted(told) == [
        f"vaex train: job {number} (seed={seed}) failed: seed must be 0 or more, got {seed}."
        for number, seed in ((0, -1), (2, -2))
    ]
    assert {path.name for path in folder.iterdir() if path.name.isdecimal()} == {"0", "1", "2"}


@pytest.mark.slow
def test_failures_of_an_earlier_sweep_in_the_folder_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = f"hydra.sweep.dir={tmp_path}"
    with pytest.raises(VaexError, match="1 of the jobs failed"):
        under_hydra("train", check, ["-m", "seed=-1", sweep])
    under_hydra("train", check, ["hydra.mode=MULTIRUN", "seed=1", sweep])
    assert f"Sweep folder: {tmp_path}" in capsys.readouterr().out


def searched(tmp_path: Path, *overrides: str, task: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a search; return beta and lr of each trial with what the task gave, and what Optuna found."""
    trials: list[dict[str, Any]] = []

    def record(config: DictConfig) -> Any:
        found = task(config.objective.beta, config.optim.lr)
        trials.append({"objective.beta": config.objective.beta, "optim.lr": config.optim.lr, "found": found})
        return found

    under_hydra("train", record, [*overrides, f"hydra.sweep.dir={tmp_path}"])
    return trials, yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())


@pytest.mark.slow
def test_a_search_finds_the_best_of_its_trials_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which trial is best is looked up by hand; the same seed tries the same again, so that skip_finished can go on."""

    def score(beta: float, lr: float) -> float:
        return 1 - abs(beta - 8) / 32 - lr

    trials, found = searched(tmp_path, "sweep=optuna_cma_es", "hydra.sweeper.n_trials=3", task=score)
    best = max(trials, key=lambda trial: trial["found"])
    assert found["best_value"] == best["found"]
    assert found["best_params"] == {key: best[key] for key in ("objective.beta", "optim.lr")}
    assert f"Best: test/factor_vae {best['found']:.6g} with objective.beta={best['objective.beta']} optim.lr=" in (
        capsys.readouterr().out
    )
    assert all(0.5 <= trial["objective.beta"] <= 32 for trial in trials)
    longer, _ = searched(tmp_path / "again", "sweep=optuna_cma_es", "hydra.sweeper.n_trials=4", task=score)
    assert longer[:3] == trials


@pytest.mark.slow
def test_several_objectives_end_in_the_trade_offs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first is to be small and the second large; a trade-off is a trial that no other beats in both."""
    overrides = ("sweep=optuna_pareto", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.population_size=3")
    trials, found = searched(tmp_path, *overrides, task=lambda beta, lr: (beta + 100 * lr, min(beta, 8)))
    values: list[Any] = [trial["found"] for trial in trials]
    front = {
        (a, b) for a, b in values if not any((c, d) != (a, b) and c <= a and d >= b for c, d in values)
    }  # by definition
    assert {tuple(one["values"]) for one in found["solutions"]} == front
    assert 1 < len(front) < 6
    printed = capsys.readouterr().out
    assert printed.count("Best: test/reconstruction ") == len(front)


@pytest.mark.slow
def test_a_search_survives_trials_that_fail_or_give_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = iter(range(9))

    def task(config: DictConfig) -> float | None:
        number = next(calls)
        if number == 0:
            raise VaexError("no luck.")
        return None if number == 1 else config.objective.beta

    sweep = ["sweep=optuna_beta", "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={tmp_path}"]
    with pytest.raises(VaexError, match=r"^1 of the jobs failed"):
        under_hydra("train", task, sweep)
    assert next(calls) == 3
    assert "best_value" in (tmp_path / "optimization_results.yaml").read_text()
    for preset in ("sweep=optuna_beta", "sweep=optuna_pareto"):
        nothing = [preset, "hydra.sweeper.n_trials=1", sweep[-1]]
        with pytest.raises(VaexError, match="No job returned a number to optimise"):
            under_hydra("train", lambda config: None, nothing)


@pytest.mark.parametrize(
    "overrides",
    [
        ["sweep=optuna_pareto", "optimized_metric=val/loss"],
        ["sweep=optuna_pareto", "optimized_metric=[val/loss]"],
        ["sweep=optuna_beta", "optimized_metric=[val/loss,val/kl]"],
    ],
)
def test_a_search_without_a_direction_for_each_objective_trains_nothing(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[DictConfig] = []
    with pytest.raises(VaexError, match=r"^1 of the jobs failed"):
        under_hydra("train", trained.append, [*overrides, "hydra.sweeper.n_trials=1", f"hydra.sweep.dir={tmp_path}"])
    assert not trained
    assert "does not fit optimized_metric=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("val/loss", 2.0),
        (["val/loss", "test/mig"], (2.0, 0.5)),
        (["test/mig"], (0.5,)),
        (None, None),
        ("val/los", None),
        (["val/loss", "train/loss"], None),
        ("val/kl", None),  # not a number
        ("val/gone", None),  # the same, as metrics.json has it
    ],
)
def test_what_a_sweeper_is_given(
    names: Any, expected: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages: dict[str, Any] = {"val": {"loss": 2.0, "kl": float("nan"), "gone": None}, "test": {"mig": 0.5}}
    config = OmegaConf.create({"optimized_metric": names})
    assert optimized(config, stages) == expected
    assert capsys.readouterr() == ("", "")  # nobody searches
    monkeypatch.setattr("vaex.commands.train.is_search", lambda: True)
    asked = [names] if isinstance(names, str) else names or []
    if any(full.partition("/")[2] not in stages.get(full.partition("/")[0], {}) for full in asked):
        with pytest.raises(UnmeasuredError, match="Unknown optimized_metric"):
            optimized(config, stages)
    else:
        assert optimized(config, stages) == expected
        assert bool(capsys.readouterr().err) == (names is not None and expected is None)


@pytest.mark.parametrize(
    ("argument", "first"),
    [
        ("seed=3,1,2", "seed=3"),
        ("+a.b='x y',z", "+a.b='x y'"),
        ("seed=range(4,9)", "seed=4"),
        ("optim.lr=tag(log, interval(0.1, 2))", "optim.lr=0.1"),
        ("n=choice(7,8)", "n=7"),
        ("callbacks=[a,b]", "callbacks=[a,b]"),
        ("seed=1", "seed=1"),
        ("--config-dir=a,b", "--config-dir=a,b"),
        ("a=[", "a=["),  # told by Hydra
    ],
)
def test_the_first_of_a_sweep(argument: str, first: str) -> None:
    assert first_value(argument) == first


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--help"]])
def test_what_is_asked_of_a_sweep_is_asked_of_its_first_job(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "seed=5,1", "network.latents=range(3,6)", "sweep=seeds", *flags]) == 0
    printed = capsys.readouterr().out
    assert "seed: 5" in printed
    assert "latents: 3" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("several", ["seeds,grid_beta", "[seeds,grid_beta]"])
def test_one_preset_at_a_time(several: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"sweep={several}"]) == 1
    assert "one preset at a time" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_sigterm_ends_a_sweep_with_its_workers(launcher: str, tmp_path: Path) -> None:
    """Nothing that the sweep started may go on behind it; each process of it has the folder on its list of files."""
    command = [sys.executable, "-c", _SLEEPING_SWEEP, f"launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (pids := list(tmp_path.glob("*.pid"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 143
    (worker,) = (int(path.stem) for path in pids)
    while (alive := Path(f"/proc/{worker}").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive


def test_the_command_of_one_job_leaves_the_sweep_behind() -> None:
    typed = ["-m", "seed=0,1", "--config-dir", "my conf", "hydra.verbose=true", "hydra.sweep.dir=x", "launcher=joblib"]
    more = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.params=null", "hydra.mode=MULTIRUN"]
    command = again("train", [*typed, *more], ["seed=1", "launcher=joblib"], Path("it's/1"))
    own = ["train", "seed=1", "launcher=joblib", "--config-dir", "my conf", "hydra.verbose=true"]
    assert command == [*own, "hydra.mode=RUN", "hydra.run.dir='it\\'s/1'"]


@pytest.mark.parametrize(
    ("devices", "environment", "expected"),
    [
        (1, {}, False),
        ([3], {}, False),
        (2, {}, True),
        (-1, {}, True),
        ("auto", {}, True),
        ([0, 1], {}, True),
        (2, {"LOCAL_RANK": "0"}, False),  # torchrun did
        (2, {"SLURM_NTASKS": "2"}, False),
        (2, {"SLURM_NTASKS": "1"}, True),
    ],
)
def test_whose_processes_are_started_here(
    devices: Any, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert starts_processes(OmegaConf.create({"devices": devices})) is expected
    assert not starts_processes(None)


@pytest.mark.slow
def test_a_job_with_several_processes_is_a_command_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, str]:
        commands.append(command)
        return (1, "vaex train: it broke.") if "seed=1" in command else (0, "")

    returned: list[Any] = []

    def outcome(config: DictConfig, folder: Path) -> float:
        returned.append((config.seed, folder))
        return 1.0

    monkeypatch.setattr("vaex.commands.jobs.run_telling", run)
    sweep = ["-m", "seed=0,1", "trainer=ddp_cpu", f"hydra.sweep.dir={tmp_path}"]
    with pytest.raises(VaexError, match="1 of the jobs failed"):
        under_hydra("train", check, sweep, outcome=outcome)
    assert "vaex train: job 1 (seed=1) failed: it broke." in capsys.readouterr().err
    assert returned == [(0, tmp_path / "0")]
    assert commands[0] == [
        *(sys.executable, "-m", "vaex", "train", "seed=0", "trainer=ddp_cpu"),
        *("hydra.mode=RUN", f"hydra.run.dir='{tmp_path / '0'}'"),
    ]
    monkeypatch.setattr("vaex.commands.jobs.run_telling", lambda command: (130, ""))
    with pytest.raises(KeyboardInterrupt):
        under_hydra("train", check, ["-m", "seed=0", *sweep[2:]])


def test_what_a_program_tells_on_stderr_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    script = "import sys; print('a\\nvaex train: b\\nc', file=sys.stderr); sys.exit(7)"
    assert run_telling([sys.executable, "-c", script]) == (7, "vaex train: b")
    assert capsys.readouterr().err == "a\nvaex train: b\nc\n"


def test_a_program_does_not_outlive_the_job_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    wait = subprocess.Popen.wait

    def interrupted(self: subprocess.Popen[str], timeout: float | None = None) -> int:
        if self not in started:
            started.append(self)
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_telling([sys.executable, "-c", "import time; time.sleep(60)"])
    assert started[0].poll() is not None


def test_sigterm_ends_the_program_first(tmp_path: Path) -> None:
    """The process that waits for it gets the signal alone, and the program below must not be left behind."""
    below = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    ends = f"run_telling([sys.executable, '-c', {below!r}])"
    script = f"import sys; from vaex.commands.job_arguments import run_telling; {ends}"
    waiting = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    waiting.terminate()
    assert waiting.wait(timeout=60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_job_that_arrives_in_another_process_can_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    OmegaConf.clear_resolver("vaex.channels")
    job = pickle.loads(pickle.dumps(Job("train", check, ("seed=1",), "vaex")))
    assert OmegaConf.has_resolver("vaex.channels")
    assert job.typed == ("seed=1",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hydra/launcher/joblib", "pip install hydra-joblib-launcher"),
        ("hydra/sweeper/optuna", "pip install hydra-optuna-sweeper"),
        ("hydra/launcher/basik", "did you mean 'basic'"),
    ],
)
def test_a_missing_plugin_names_its_package(name: str, expected: str) -> None:
    """The text is Hydra's own, as it stands where the package is not installed."""
    text = f"In 'hydra/config': Could not find '{name}'\n\nAvailable options in 'hydra/launcher':\n\tbasic\n"
    assert expected in sentence(RuntimeError(f"{text}Config search path:\n\tprovider=hydra"), "train")
