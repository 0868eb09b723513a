"""README and docs say what works: their Python runs, their commands compose, their links exist."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vaex.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
OWN_GROUPS = {"hydra", "paths"}  # with one choice for each command, or for all
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (where, text) of every fenced block of ``language``."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        (f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}", match.group(1))
        for page in PAGES
        for match in pattern.finditer(page.read_text())
    ]


ENDS_LINE = re.compile(r"\s+#\s.*$")
BEFORE_VAEX = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:srun |torchrun (?:--\S+ )*-m )?(?=vaex( |$))")


def lines_of_shell(*pages: str) -> list[str]:
    """Return every line of the sh blocks, of some pages or of all, without comments and without what starts vaex."""
    lines = [
        ENDS_LINE.sub("", line).strip()
        for where, text in blocks("sh")
        if not pages or where.partition(":")[0] in pages
        for line in text.splitlines()
        if not line.startswith("#")
    ]
    return [BEFORE_VAEX.sub("", line) for line in lines if line]


def commands(*pages: str) -> list[str]:
    """Return every documented vaex command line, of some pages or of all."""
    return sorted({line for line in lines_of_shell(*pages) if line.startswith("vaex ")})


FIRST_PAGES = ("README.md", "quick-start.md")


def composed() -> list[Any]:
    """Return the same to be tried; those of the first pages one reads are fast, the rest is slow by its number."""
    first = set(commands(*FIRST_PAGES))
    return [pytest.param(line, marks=() if line in first else pytest.mark.slow) for line in commands()]


SLOW_WORDS = ("maps.onnx", "maps.pt2", "DSprites(")


def runnable() -> list[Any]:
    """Return the blocks of Python; those that write a file for another runtime, or draw all of dSprites, are slow."""
    return [
        pytest.param(where, code, marks=pytest.mark.slow if any(word in code for word in SLOW_WORDS) else ())
        for where, code in blocks("python")
    ]


@pytest.mark.parametrize(("where", "code"), runnable(), ids=lambda value: value if len(value) < 40 else "")
def test_python_block_runs(where: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, where, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("line", composed())
def test_command_composes(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Placeholders stand for the shipped checkpoint and a run folder that is not there."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    words = [word.replace("ckpt=RUN_FOLDER", "ckpt=sprites").replace("=FOLDER", "=pictures") for word in words]
    if any(word.startswith("resume=") for word in words):
        assert main(words) == 1  # no such run here; what resume does is tested in commands/test_train.py
        assert "Cannot resume" in capsys.readouterr().err  # the command line itself was understood
        return
    words = [word for word in words if word != "-m"]
    words = [word.split(",")[0] if re.match(r"^[\w.]+=\w+(,\w+)+$", word) else word for word in words]
    assert main([*words, "--cfg", "job"]) == 0


def test_every_other_line_names_what_is_there() -> None:
    """make and its targets, pip with our extras and constraints, wandb with our sweeps, and a few that need nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in lines_of_shell():
        words = shlex.split(line)
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), line
        elif words[:2] == ["pip", "install"]:
            assert words[2] == "-c", line
            assert (ROOT / words[3]).is_file(), line
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[4])
            assert extras, line
            assert set((extras[1] or "").split(",")) <= {"", *project["optional-dependencies"]}, line
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
        elif words[:2] == ["wandb", "sweep"]:
            assert (ROOT / words[2]).is_file(), line
        else:
            known = words[0] == "vaex" or words[:2] == ["wandb", "sync"] or "wandb agent " in line
            assert known or words[0] == ".venv/bin/pre-commit", f"no test knows what to do with: {line}"


def test_the_script_that_ranks_maps_over_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two data sets of one run with two maps and noise; the ranks are those by hand."""
    latents = {"numbers": [0], "factors": ["-"], "strengths": [None], "collapsed": 0, "weak": 0}
    for name, first, second in (("a", 0.1, 0.3), ("b", 0.4, 0.2)):
        measured: dict[str, list[float | None]] = {
            "x, mean": [first, 0.5],
            "y, mean": [second, None],
            "control: noise": [0.5, 0.0],
        }
        rows = {
            row: {weights: {"deletion": [one], "agreement": [two]} for weights in ("trained", "untrained")}
            for row, (one, two) in measured.items()
        }
        run = {"name": "r", "latents": latents, "images": 2, "rows": rows, "skipped": {}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench_faithfulness.json").write_text(json.dumps({"runs": [run], "whole_code": []}))
    page = tmp_path / "page.md"
    script = ROOT / "docs/tables/faithfulness.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(page), f"A={tmp_path / 'a'}", f"B={tmp_path / 'b'}"])
    runpy.run_path(str(script), run_name="__main__")
    told = capsys.readouterr().out
    # deletion: x 1 and y 2 in A, the other way round in B; agreement: y has no number, so it is last in both
    assert "| x, mean | 1.2 | 1.0 | 1.5 | 2 | 1 |" in told
    assert "| y, mean | 1.8 | 2.0 | 1.5 | 2 | 2 |" in told
    assert "| deletion ↓ | .20 | .20 | .50 | .30 | .30 | .50 |" in told
    assert "## Maps of single latents: B, untrained" in page.read_text()
    assert "| y, mean | 1.5 | .20 | - |" in page.read_text()
    assert "whole code" not in told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """So that no command hides in a block that no test looks at."""
    kinds = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)[::2]
    assert set(kinds) <= {"sh", "python", "py", "yaml", "text"}


TINY = [
    "data.size=32",
    "data.grid={shape: 2, scale: 2, orientation: 1, x: 6, y: 6}",
    "data.val=16",
    "data.test=16",
    *(
        "network.width=4",
        "network.hidden=8",
        "network.depth=3",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
    ),
]
WALKED = ("quick-start.md", "report.md")


@pytest.mark.slow
def test_commands_of_the_quick_start_and_the_report_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order, with a run of a few small sprites; MNIST, which is fetched, composes alone."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Image.new("L", (40, 30), 90).save("pictures/grey.png")
    for name in ("RUN", "OTHER"):
        assert main(["train", *TINY, f"paths.run={tmp_path / name}", "callbacks=[attention,checkpoint]"]) == 0
    for number, line in enumerate(line for line in lines_of_shell(*WALKED) if line.startswith("vaex ")):
        words = shlex.split(line.replace("RUN_FOLDER", "RUN").replace("OTHER_RUN", "OTHER"))[1:]
        words = [word.replace("=FOLDER", "=pictures") for word in words]
        if words[0] == "train" and not any(word.startswith(("resume=", "data=mnist")) for word in words):
            words += [word for word in TINY if "layer" not in word]
            words += ["attention.layer=conv2"] if "experiment=demo" in words else []
        if words[0] in ("train", "evaluate") and not any(word.startswith("resume=") for word in words):
            words.append(f"paths.run={tmp_path / str(number)}")
        words += ["--cfg", "job"] if "data=mnist" in words else []
        assert main(words) == 0, f"{line}\n{capsys.readouterr().err}"
    assert Path("bottle.html").is_file()
    assert Path("maps/overview.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_quick_start_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "quick-start.md").read_text()
    rows = page[page.index("| extra | for |") :].partition("\n\n")[0].splitlines()[2:]
    assert {row.split("`")[1] for row in rows} == set(project["optional-dependencies"])


def test_readme_names_every_choice() -> None:
    text = (ROOT / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    groups = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name not in OWN_GROUPS)
    for group in groups:
        row = next((row for row in rows if f"`{group}`" in row.split("|")[1]), "")
        words = re.findall(r"\w+", row.split("|")[2] if row else "")
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert path.stem in words, f"README's row for {group} lacks {path.stem}"


def test_readme_names_every_command() -> None:
    examples = "\n".join(commands())
    for name in COMMANDS:
        assert f"vaex {name}" in examples
