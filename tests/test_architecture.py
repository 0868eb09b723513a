"""The shape of the code: floors, what may be imported where, size of files, names, and the frozen public names.

`tests/api_surface.json` holds the public names with their parameters. After a change that is meant, write it anew:

    VAEX_FREEZE_API=1 .venv/bin/python -m pytest tests/test_architecture.py -k public_names
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vaex"
FILES = sorted(PACKAGE.rglob("*.py"))
SURFACE = Path(__file__).with_name("api_surface.json")

FLOORS = (  # top first; an import points to the same floor or to one below
    {"__init__", "__main__", "cli"},
    {"commands"},
    {"benchmarks"},
    {"callbacks"},
    {"modules"},
    {"held_out", "detectors"},
    {"coding"},  # encodes as calibration does
    {"calibrate"},
    {"explanation", "columns", "exporting", "probing"},
    {"scores"},
    {"build"},  # builds objectives, so it stands above them
    {"objectives"},
    {"networks"},
    {"priors"},
    {"attention"},
    {"metrics"},
    {"data"},
    {"reporting"},
    {"viz"},
    {"sentences"},
    {"config", "runs", "shapes", "checked", "intake", "cluster"},
    {"types", "errors", "lazy"},
)
HEIGHT = {name: -depth for depth, names in enumerate(FLOORS) for name in names}

ONLY_IN = {  # library: where it may be imported
    "albumentations": ("data/transforms.py",),
    "hydra": ("cli.py", "commands/", "config.py", "sentences.py"),
    "omegaconf": ("cli.py", "commands/", "config.py", "sentences.py"),
    "lightning": ("commands/", "callbacks/", "modules/", "calibrate.py", "data/", "benchmarks/"),
}
HEAVY = {
    *("torch", "lightning", "torchmetrics", "numpy", "scipy", "sklearn", "cv2", "PIL"),
    *("hydra", "omegaconf", "matplotlib", "wandb", "albumentations"),
}
MAX_LINES = 260

PUBLIC = (
    *("vaex", "vaex.attention", "vaex.callbacks", "vaex.data", "vaex.metrics", "vaex.metrics.disentanglement"),
    *("vaex.metrics.faithfulness", "vaex.modules"),
)


class Import(NamedTuple):
    """One imported name, ``vaex.types.Batch``; ``lazy`` when it stands inside a function."""

    line: int
    name: str
    lazy: bool


def imports(node: ast.AST, lazy: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(child.lineno, alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(child.lineno, f"{child.module}.{alias.name}", lazy) for alias in child.names)
        else:
            yield from imports(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def floor(dotted: str) -> str:
    """Return the floor of a name in vaex: ``data`` for ``vaex.data.module.Batch``, ``__init__`` for ``vaex.load``."""
    part = dotted.split(".")[1] if "." in dotted else "__init__"
    return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file() else "__init__"


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def all_imports() -> list[tuple[Path, Import]]:
    return [(path, found) for path in FILES for found in imports(tree(path))]


def test_every_kind_of_import_is_seen() -> None:
    source = """
import a.b
if TYPE_CHECKING:
    from c import d, e
def f():
    try:
        import g
    except ImportError:
        from h.i import j
class K:
    import l
"""
    found = [(name, lazy) for _, name, lazy in imports(ast.parse(source))]
    assert found == [("a.b", False), ("c.d", False), ("c.e", False), ("g", True), ("h.i.j", True), ("l", False)]


def test_imports_between_floors_point_down() -> None:
    wrong = []
    for path, found in all_imports():
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert here in HEIGHT, f"vaex/{inside(path)} is on no floor: give it one in FLOORS"
        if found.name.split(".")[0] == "vaex" and found.name != "vaex.__version__":
            there = floor(found.name)
            if HEIGHT[there] > HEIGHT[here]:
                wrong.append(f"vaex/{inside(path)}:{found.line} imports {found.name}: {there} is above {here}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_on_its_floors(library: str) -> None:
    wrong = [
        f"vaex/{inside(path)}:{found.line}"
        for path, found in all_imports()
        if found.name.split(".")[0] == library and not inside(path).startswith(ONLY_IN[library])
    ]
    assert not wrong, f"{library} may be imported in {ONLY_IN[library]} only, not in {wrong}"


def test_wandb_is_never_imported_at_module_level() -> None:
    found = [(path, one) for path, one in all_imports() if one.name.split(".")[0] == "wandb"]
    assert not [f"vaex/{inside(path)}:{one.line}" for path, one in found if not one.lazy]


def test_every_third_party_import_is_a_declared_dependency() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in declared}
    homes = packages_distributions()
    wrong = {
        f"vaex/{inside(path)}:{found.line} imports {top}"
        for path, found in all_imports()
        if (top := found.name.split(".")[0]) not in {"vaex", *sys.stdlib_module_names}
        and not names & {home.lower() for home in homes.get(top, [])}
    }
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize(
    "program",
    [
        "import vaex",
        "import vaex.cli",
        "import vaex.cli; vaex.cli.main()",
        "import sys, vaex.cli; sys.argv.append('--help'); vaex.cli.main()",
    ],
    ids=["import vaex", "import vaex.cli", "vaex", "vaex --help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    report = "import atexit, sys; atexit.register(lambda: print('\\nMODULES', *sys.modules)); sys.argv = ['vaex']; "
    done = subprocess.run([sys.executable, "-c", report + program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert "vaex" in loaded
    assert not HEAVY & loaded


def test_files_are_short_and_named_for_what_they_hold() -> None:
    long = {inside(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > MAX_LINES}
    assert not long, f"longer than {MAX_LINES} lines: {long}"
    assert not [inside(path) for path in FILES if path.stem in {"utils", "helpers", "base", "common", "misc"}]


def test_no_function_bears_the_name_of_its_module() -> None:
    """``vaex.explain`` must never mean a function in one place and a module in another."""
    wrong = [
        f"vaex/{inside(path)} defines a function {node.name}"
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef) and node.name in {path.stem, path.parent.name}
    ]
    for name in PUBLIC:
        module = importlib.import_module(name)
        folder = ROOT / name.replace(".", "/")
        wrong += [
            f"{name}.{public} is a function, and {name} has a file of that name"
            for public in module.__all__
            if inspect.isfunction(getattr(module, public)) and (folder / f"{public}.py").exists()
        ]
    assert not wrong, "\n".join(wrong)


def described(value: Any) -> str:
    """Return what a caller relies on: parameter names, kinds and defaults of a function or class."""
    if inspect.ismodule(value):
        return "module"
    if typing.is_typeddict(value):
        return f"keys: {', '.join(value.__annotations__)}"
    if not callable(value):
        return type(value).__name__
    signature = inspect.signature(value)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def surface() -> dict[str, dict[str, str]]:
    modules = {name: importlib.import_module(name) for name in PUBLIC}
    return {name: {n: described(getattr(m, n)) for n in sorted(m.__all__)} for name, m in modules.items()}


def test_public_names_are_those_that_were_frozen() -> None:
    now = surface()
    if os.environ.get("VAEX_FREEZE_API"):
        SURFACE.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    frozen = json.loads(SURFACE.read_text(encoding="utf-8"))
    assert now == frozen, f"a public name changed; if it is meant, write {SURFACE.name} anew (see the top of this file)"
