"""MkDocs hook: what lies beside docs/ and is linked from it becomes a page, and so does every notebook.

So one text serves GitHub and the site: README.md is the site's first page, a link to `../conf/sweep/wandb_beta.yaml`
leads to a page that shows the file, a link to a notebook to the notebook with its outputs.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".py": "python", ".cff": "yaml"}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def site_path(path: str) -> str:
    """Return the place in the site of a file of the repository, both as POSIX paths from their roots."""
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return inside.removesuffix(".ipynb") + ".md" if inside.endswith(".ipynb") else inside
    return PAGES.get(path, f"repository/{path}.md")


def repository_path(src_uri: str) -> str:
    """Return the file of the repository that a page of the site shows."""
    names = {site: path for path, site in PAGES.items()}
    return names.get(src_uri, f"docs/{src_uri}")


def linked(markdown: str, origin: str) -> list[str]:
    """Return the files of the repository that a text links to, as paths from its root."""
    targets = (match.group(2) for match in LINK.finditer(markdown))
    return [
        posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        for target in targets
        if not re.match(r"[a-z]+:", target)
    ]


def code_page(path: str) -> str:
    """Return a page that shows a text file of the repository."""
    text, language = (ROOT / path).read_text(encoding="utf-8"), LANGUAGES.get(Path(path).suffix, "text")
    return f"# {Path(path).name}\n\n`{path}` of the repository.\n\n````{language}\n{text}````\n"


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by their name beside the page."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", []):
            data: dict[str, Any] = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", "")))
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output of the cell above]({name})")
            elif text.strip():
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold as Markdown."""
    for path, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(notebook)
        text += f"\n[Download the notebook]({notebook.name}).\n"
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for file in list(files.documentation_pages()):
        for path in linked(file.content_string, repository_path(file.src_uri)):
            place = site_path(path)
            if place.startswith("repository/") and (ROOT / path).is_file() and place not in files.src_uris:
                files.append(File.generated(config, place, content=code_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    origin = repository_path(page.file.src_uri)
    if origin.startswith(("docs/repository/", "docs/notebooks/")):
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = match.group(2)
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if path.startswith(".."):
            return match.group(0)
        return match.group(1) + posixpath.relpath(site_path(path), here or ".") + match.group(3)

    return LINK.sub(moved, markdown)
