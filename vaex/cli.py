"""The ``vaex`` program: one table of commands; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from vaex import __version__
from vaex.errors import unknown


class Command(NamedTuple):
    """A command: the module that runs it, what it does, an example."""

    module: str
    summary: str
    example: str


COMMANDS = {
    "train": Command(
        "vaex.commands.train",
        "train a VAE, explain it at every validation, test it",
        "vaex train data=mnist network=mnist",
    ),
    "evaluate": Command(
        "vaex.commands.evaluate", "test a checkpoint: losses, maps, scores", "vaex evaluate ckpt=RUN_FOLDER"
    ),
    "calibrate": Command(
        "vaex.commands.calibrate",
        "learn what is normal and keep it in a checkpoint",
        "vaex calibrate ckpt=RUN_FOLDER",
    ),
    "explain": Command(
        "vaex.commands.explain",
        "draw why each latent fires on your images",
        "vaex explain ckpt=RUN_FOLDER images=FOLDER",
    ),
    "export": Command(
        "vaex.commands.export",
        "write encoder, maps or score as one file (ONNX, pt2)",
        "vaex export ckpt=RUN_FOLDER what=attention",
    ),
    "bench": Command(
        "vaex.commands.bench",
        "measure speed and memory beside peers, and maps against known truth",
        "vaex bench cases=[mnist_conv2]",
    ),
    "report": Command(
        "vaex.commands.report",
        "write one page to look at a run: metrics, curves, gallery of maps",
        "vaex report run=RUN_FOLDER",
    ),
    "table": Command(
        "vaex.commands.table",
        "turn run folders into a table: mean, spread, intervals over seeds",
        "vaex table runs=outputs",
    ),
    "app": Command(
        "vaex.commands.app",
        "open a page to look at images and move their latents",
        "vaex app ckpt=RUN_FOLDER",
    ),
    "dashboard": Command(
        "vaex.commands.dashboard",
        "make a workspace and a report in a wandb project",
        "vaex dashboard project=vaex",
    ),
}


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    examples = [f"  {command.example}" for command in COMMANDS.values()]
    return "\n".join(
        [
            f"vaex {__version__}: train variational autoencoders and see why each latent fires.",
            "",
            "usage: vaex COMMAND [key=value ...]",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            *examples,
            "",
            "vaex COMMAND --help explains a command; arguments are Hydra overrides.",
        ]
    )


@contextmanager
def _full_errors() -> Iterator[None]:
    # Hydra prints its own tracebacks unless told to raise
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _wants_traceback(arguments: Sequence[str]) -> bool:
    return any(argument.lstrip("+") == "debug=default" for argument in arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0 done, 1 failed, 2 misused, 130 Ctrl-C, 143 SIGTERM."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"vaex {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"vaex: {unknown('command', name, COMMANDS)}", file=sys.stderr)
        return 2
    try:
        with _full_errors():
            importlib.import_module(COMMANDS[name].module).run(rest)
    except KeyboardInterrupt:
        print("vaex: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        if _wants_traceback(rest):
            raise
        from vaex.intake import printable
        from vaex.sentences import sentence

        print(f"vaex {name}: {printable(sentence(error, name, rest))}", file=sys.stderr)
        return 1
    return 0
