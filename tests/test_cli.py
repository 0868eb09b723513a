"""The program: its list of commands, exit statuses, and one sentence for every kind of wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vaex import __version__, cli
from vaex.sentences import sentence

PROBE = """
import json, os, signal, sys
from vaex.cli import main
import hydra.main, vaex.commands.launch
for line in sys.stdin:  # a process for each, which finds these imported and nothing else
    arguments, folder, out, err = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(120)
        os.chdir(folder)
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        sys.argv[1:] = arguments
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
        heavy = {"torch", "lightning", "matplotlib", "wandb", "albumentations"} & set(sys.modules)
        print("HEAVY", sorted(heavy), file=sys.stderr)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

Program = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Run vaex in a process of its own and return status, stdout and stderr with the probe's line."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", PROBE], **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def answer(*arguments: str, cwd: Path) -> tuple[int, str, str]:
            out, err = (tmp_path_factory.mktemp("said") / name for name in ("out", "err"))
            print(json.dumps([arguments, str(cwd), str(out), str(err)]), file=process.stdin)
            status = int(process.stdout.readline())  # type: ignore[union-attr]
            return status, out.read_text(), err.read_text()

        yield answer
        process.stdin.close()


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
def test_wrong_input_is_one_sentence_without_torch(
    run: Program, arguments: list[str], expected: str, tmp_path: Path
) -> None:
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


def test_early_stopping_without_a_validation_says_what_to_name() -> None:
    """The error is Lightning's own, so that the test fails where its words change."""
    from lightning.pytorch.callbacks import EarlyStopping

    with pytest.raises(RuntimeError) as raised:
        EarlyStopping("val/loss")._validate_condition_metric({"loss": torch.tensor(1.0), "train/kl": torch.tensor(1.0)})
    told = sentence(raised.value, "train")
    assert told.startswith("Early stopping watches val/loss, which was not among what was measured (`loss`, `train/kl`")
    assert told.endswith("(trainer.val_check_interval).")


def test_debug_shows_the_traceback(run: Program, tmp_path: Path) -> None:
    status, _, err = run("train", "network=mnist", "debug=default", cwd=tmp_path)
    assert status == 1
    assert "Traceback" in err
    assert "VaexError" in err


SEEN_FIRST = {"train", "explain"}  # the others are looked at by the slow tests


@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=() if name in SEEN_FIRST else pytest.mark.slow) for name in sorted(cli.COMMANDS)],
)
def test_help_shows_examples_groups_and_keys_without_torch(run: Program, command: str, tmp_path: Path) -> None:
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


def test_config_is_printed_without_torch(run: Program, tmp_path: Path) -> None:
    status, out, err = run("train", "--cfg", "job", "network.latents=7", cwd=tmp_path)
    assert status == 0
    assert "latents: 7" in out
    assert err.strip() == "HEAVY []"
