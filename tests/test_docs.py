"""README and docs say what works: their Python runs, their commands compose, their links exist."""

from __future__ import annotations

import re
import shlex
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


def commands() -> list[str]:
    """Return every documented vaex command line, without comments."""
    lines = [
        line.partition("  #")[0].partition(" # ")[0].strip() for _, text in blocks("sh") for line in text.splitlines()
    ]
    return sorted({line for line in lines if line.startswith("vaex ")})


def runnable() -> list[Any]:
    """Return the blocks of Python; those that write a file for another runtime take more than 5 s."""
    return [
        pytest.param(where, code, marks=pytest.mark.slow if "maps.onnx" in code or "maps.pt2" in code else ())
        for where, code in blocks("python")
    ]


@pytest.mark.parametrize(("where", "code"), runnable(), ids=lambda value: value if len(value) < 40 else "")
def test_python_block_runs(where: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, where, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("line", commands())
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
