"""What a user installs, used from elsewhere: the wheel (made from the source distribution) and the editable install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


class Installed(NamedTuple):
    """A new environment that holds vaex, and where its code and conf/ should be."""

    bin: Path
    package: Path
    conf: Path


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program as a user would: no PYTHONPATH, and in ``cwd``, away from the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "VAEX_"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that ``pip install -e`` makes and installs; pip itself would first ask the network for hatchling."""
    folder = tmp_path_factory.mktemp("editable")
    build = f"import hatchling.build; hatchling.build.build_editable({str(folder)!r})"
    run(sys.executable, "-c", build, cwd=ROOT)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Installed:
    """A new environment: vaex installed into it, the libraries that vaex needs borrowed from the running one."""
    kind = request.param
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    archive: Path = request.getfixturevalue(kind)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", archive, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    package = site / "vaex" if kind == "wheel" else ROOT / "vaex"
    return Installed(folder / "bin", package, package / "conf" if kind == "wheel" else ROOT / "conf")


def test_wheel_holds_the_package_its_conf_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    conf = {f"vaex/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vaex").rglob("*") if path.is_file()}
    code = {name for name in code if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == conf | code
    assert {"vaex/conf/train.yaml", "vaex/py.typed"} <= names
    assert {f"vaex/viz/templates/report.{suffix}" for suffix in ("html", "css", "js")} <= names
    assert any(name.startswith("vaex/checkpoints/") and name.endswith(".ckpt") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_states_name_python_and_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata: Message = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        programs = archive.read(f"{info}/entry_points.txt").decode()
    assert metadata["Name"] == "vaex-attention"
    assert metadata["Version"] == PROJECT["version"]
    assert {part.strip() for part in metadata["Requires-Python"].split(",")} == {">=3.11", "<3.14"}
    assert "vaex = vaex.cli:main" in programs


def test_source_distribution_holds_conf_and_tests(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"conf/train.yaml", "tests/test_packaging.py", "constraints.txt", "Makefile", "LICENSE"} <= names


def test_installed_vaex_trains_from_another_folder(installed: Installed, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = installed.bin / "python"
    question = "import json, vaex, vaex.config; print(json.dumps([vaex.__file__, str(vaex.config.conf_dir())]))"
    assert json.loads(run(python, "-c", question, cwd=elsewhere)) == [
        str(installed.package / "__init__.py"),
        str(installed.conf),
    ]
    assert "train" in run(installed.bin / "vaex", cwd=elsewhere)

    folder = elsewhere / "run"
    run(python, "-m", "vaex", "train", "debug=fast", f"hydra.run.dir={folder}", cwd=elsewhere)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["test"]
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert 'id="gallery"' in (folder / "report.html").read_text(encoding="utf-8")  # its templates were found
