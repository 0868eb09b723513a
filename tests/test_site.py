"""The documentation site: complete, without broken links, without the network; its notebook and its files run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
NAMED_FILE = re.compile(r"^```(?:py|yaml)\n(# (\S+)\n.*?)^```", re.MULTILINE | re.DOTALL)
AUTOLOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads mkdocs.yml, whose tags name functions."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def pages(item: Any) -> Iterator[str]:
    """Every page that the navigation of mkdocs.yml names."""
    if isinstance(item, str):
        yield item
    else:
        for part in item.values() if isinstance(item, dict) else item:
            yield from pages(part)


def run(command: list[str], cwd: Path, **variables: str) -> str:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def build(out: Path, *options: str, cwd: Path = ROOT) -> str:
    return run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out), *options], cwd)


def read(notebook: Path) -> Any:
    return json.loads(notebook.read_text(encoding="utf-8"))


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    written |= {path.relative_to(DOCS).with_suffix(".md").as_posix() for path in NOTEBOOKS}
    assert set(pages(config["nav"])) == written | {"index.md", "changelog.md", "contributing.md"}
    assert config["strict"]
    assert config["theme"]["font"] is False


def test_every_public_module_is_in_the_api() -> None:
    told = {name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)}
    frozen = set(json.loads((ROOT / "tests" / "api_surface.json").read_text(encoding="utf-8")))
    assert frozen - {"vaex"} <= told
    assert {"vaex.load", "vaex.explain"} <= told
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in index for name in told)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_shipped_with_its_outputs(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < 1_000_000
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, from top to bottom
    assert pictures(notebook) >= 4
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs(notebook))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    run([sys.executable, str(DOCS / "notebooks" / "run.py"), str(tmp_path)], tmp_path)
    found, kept = read(tmp_path / path.name), read(path)
    assert not any(output["output_type"] == "error" for output in outputs(found))
    assert pictures(found) == pictures(kept)
    assert [cell["source"] for cell in found["cells"]] == [cell["source"] for cell in kept["cells"]]
    text = "".join("".join(output.get("text", "")) for output in outputs(found))
    nats = [float(number) for number in re.findall(r"([\d.]+) nats, mean", text)]
    assert nats[0] > 1  # the latent that the text goes on to speak of has not collapsed


@pytest.mark.slow
def test_site_is_whole_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    out = tmp_path / "site"
    build(out)
    for page in out.rglob("*.html"):
        assert not AUTOLOADED.findall(page.read_text(encoding="utf-8")), page.name
    styles = [path.read_text(encoding="utf-8") for path in out.rglob("*.css")]
    assert not any(re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text) for text in styles)
    surface = json.loads((ROOT / "tests" / "api_surface.json").read_text(encoding="utf-8"))
    api = "".join(path.read_text(encoding="utf-8") for path in (out / "api").glob("*.html"))
    for module, names in surface.items():
        missing = [name for name in names if f'id="{module}.{name}"' not in api]
        assert module == "vaex" or not missing, f"{module}: {missing}"
    assert (out / "notebooks" / "image_to_maps_0.png").is_file()
    assert (out / "repository" / "conf" / "sweep" / "wandb_beta.yaml.html").is_file()


@pytest.mark.slow
def test_broken_links_fail(tmp_path: Path) -> None:
    """The settings of mkdocs.yml on a site of two pages: with good links it is built, with broken ones it is not."""
    settings = yaml.safe_load("\n".join(_section("validation")))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## A part\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({"site_name": "x", **settings}))
    page = tmp_path / "docs" / "index.md"
    page.write_text("# Page\n\n[good](other.md#a-part)\n")
    build(tmp_path / "site", cwd=tmp_path)
    page.write_text("# Page\n\n[a](nowhere.md) [b](other.md#no-such-part) [c](#nor-this)\n")
    with pytest.raises(AssertionError, match="3 warnings") as failure:
        build(tmp_path / "site", cwd=tmp_path)
    assert all(target in str(failure.value) for target in ("nowhere.md", "no-such-part", "nor-this"))


def _section(name: str) -> list[str]:
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").splitlines()
    start = lines.index(f"{name}:")
    return [lines[start], *(line for line in lines[start + 1 : lines.index("", start)])]


def _files(page: str, folder: Path) -> str:
    """Write the files that a page shows into ``folder`` and return its text."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for content, name in NAMED_FILE.findall(text):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return text


def _command(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.removeprefix("PYTHONPATH=. ").split()


@pytest.mark.slow
def test_own_objective_as_the_page_shows_it(tmp_path: Path) -> None:
    text = _files("your-own-objective.md", tmp_path)
    command = _command(text, "python sparse.py train")
    small = ["data.grid.x=4", "data.grid.y=4", "data.val=32", "data.test=32", "metrics.disentanglement.names=[]"]
    quick = [*small, "debug=fast", "report=false", "calibrate=false"]
    told = run([sys.executable, *command[1:], *quick], tmp_path, PYTHONPATH=str(ROOT))
    assert re.search(r"\bsparsity\b", told)


@pytest.mark.slow
def test_own_data_as_the_page_shows_it(tmp_path: Path) -> None:
    text = _files("your-own-data.md", tmp_path)
    found = re.search(r"^```python\n(.*?)^data = ", text, re.MULTILINE | re.DOTALL)
    assert found
    (tmp_path / "waves.py").write_text(found.group(1), encoding="utf-8")
    command = _command(text, "PYTHONPATH=. vaex train")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    told = run([sys.executable, "-m", *command, "debug=fast", "report=false"], tmp_path, PYTHONPATH=path)
    assert re.search(r"\bpixel_auroc\b", told)
