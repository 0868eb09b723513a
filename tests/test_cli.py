"""The program: its list of commands, exit statuses, and one sentence for every kind of wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vaex import __version__, cli

PROBE = """
import sys
from vaex.cli import main
status = main(sys.argv[1:])
heavy = {"torch", "lightning", "matplotlib", "wandb", "albumentations"} & set(sys.modules)
print("HEAVY", sorted(heavy), file=sys.stderr)
sys.exit(status)
"""


def run(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run vaex in a fresh process and return status, stdout and stderr without the probe's line."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in text
        assert command.summary in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"vaex {__version__}"


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "data=mnst"], "did you mean 'mnist'"),
        (["train", "trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'"),
        (["train", "netwrk.latents=3"], "did you mean 'network.latents'"),
        (["train", "dta=mnist"], "did you mean 'data'"),
        (["train", "experiment=mnist_oneclass"], "did you mean 'mnist_one_class'"),
        (["train", "trainer/precision=64"], "Unknown choice for trainer/precision '64'"),
        (["train", "network=mnist"], "network=mnist takes images of 1x28x28 only, got 1x64x64"),
        (["train", "network.latents=abc"], "network.latents must be a whole number"),
        (["train", "network.depth=9"], "network.depth must be a whole number from 1 to 6"),
        (["train", "trainer.max_epochs=["], "cannot be read"),
        (["train", "resume=nowhere"], "Cannot resume"),
        (["train", "seed=-1"], "seed must be 0 or more"),
        (["train", "objective=vae", "objective.beta=3"], "Unknown key 'objective.beta'"),
        (["train", "callbacks=[attention,chekpoint]"], "did you mean 'checkpoint'"),
        (["explain", "attention.methd=x"], "did you mean 'attention.method'"),
        (["explain", "imges=x"], "did you mean 'images'"),
        (["bench", "rouns=3"], "did you mean 'rounds'"),
        (["table", "colums=[loss]"], "did you mean 'columns'"),
        (["train", "augmentation=strong"], "augmentation=strong has no effect on Sprites"),
        (["evaluate", "ckpt=sprites", "augmentation=corrupt"], "augmentation=corrupt has no effect on Sprites"),
        (["train", "sweep=mvtec_category"], "did you mean 'mvtec_categories'"),
        (["evaluate", "ckpt=sprites", "attention.targt=kl"], "did you mean 'attention.target'"),
        (["evaluate", "-m", "ckpt=a,b"], "one checkpoint at a time"),
        (["evaluate"], "Name a checkpoint"),
        (["evaluate", "ckpt=nowhere.ckpt"], "No checkpoint at nowhere.ckpt"),
        (["explain", "ckpt=nowhere", "images=x.png"], "No checkpoint at nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_without_torch(arguments: list[str], expected: str, tmp_path: Path) -> None:
    status, out, err = run(*arguments, cwd=tmp_path)
    lines = [line for line in err.splitlines() if line]
    assert status == 1
    assert not out
    assert lines[-1] == "HEAVY []"
    assert len(lines) == 2, err
    assert lines[0].startswith(f"vaex {arguments[0]}: ")
    assert expected in lines[0]
    assert "Traceback" not in err
    assert not list(tmp_path.glob("outputs/**/*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "attention.target=maen"], "did you mean 'mean'"),
        (["train", "callbacks.attention.images_per_batch=0"], "images_per_batch"),
        (["train", "optim.lr=-1", "debug=fast"], "correct optim"),
        (["evaluate", "ckpt=sprites", "data.size=32"], "images of 1x32x32, but the model was trained on 1x64x64"),
        (["evaluate", "ckpt=sprites", "data.color=random"], "images of 3x64x64, but the model was trained on 1x64x64"),
    ],
)
def test_wrong_values_are_one_sentence(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith(f"vaex {arguments[0]}: ")
    assert len(error.strip().splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    status, _, err = run("train", "network=mnist", "debug=default", cwd=tmp_path)
    assert status == 1
    assert "Traceback" in err
    assert "VaexError" in err


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_help_shows_examples_groups_and_keys_without_torch(command: str, tmp_path: Path) -> None:
    status, out, err = run(command, "--help", cwd=tmp_path)
    assert status == 0
    assert err.strip() == "HEAVY []"
    assert f"vaex {command} " in out
    own: dict[str, tuple[str, ...]] = {  # those that compose no run
        "bench": ("what: ", "cases: "),
        "dashboard": ("project: ",),
        "report": ("run: ", "runs: ", "out: "),
        "table": ("runs: ", "published: "),
    }
    keys = own.get(command, ("attention: ", "score:"))
    assert all(key in out for key in keys)


def test_config_is_printed_without_torch(tmp_path: Path) -> None:
    status, out, err = run("train", "--cfg", "job", "network.latents=7", cwd=tmp_path)
    assert status == 0
    assert "latents: 7" in out
    assert err.strip() == "HEAVY []"
