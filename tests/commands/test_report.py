"""The report of a run: what the page holds, that hostile names stay text, and that it works in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaex.callbacks.kept import KeptTest
from vaex.commands.report import report_on, try_report, write_report
from vaex.errors import VaexError
from vaex.runs import KEPT_TEST
from vaex.scores import Scored
from vaex.types import Explanation
from vaex.viz import save_png

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
COUNT = 24
VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """What a browser would find: elements by tag, ids, text by tag; tags that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def data(self) -> Any:
        (text,) = (text for tag, text in self.texts if tag == "script" and text.startswith("{"))
        return json.loads(text)


def keep_test(folder: Path) -> None:
    """A test of which image 0 (anomalous) scores lowest and image 23 (normal) second highest."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) < COUNT // 2
    masks = torch.zeros(COUNT, 1, 32, 32)
    masks[labels, :, 8:20, 10:14] = 1
    images = 0.5 * torch.rand(COUNT, 3, 32, 32, generator=generator)
    score_map = torch.rand(COUNT, 1, 32, 32, generator=generator) + masks
    score = torch.arange(COUNT).flip(0).float()
    score[0], score[23] = -5, 21.5
    maps, kl = torch.rand(COUNT, 3, 32, 32, generator=generator), torch.ones(COUNT, 3)
    kept = KeptTest("own", names=["good", HOSTILE])
    explanation = Explanation(maps, score_map, score, kl, kl, kl, images)
    others = {"other": Scored(score_map.flip(2) - 0.5, score)}
    kept.update(images, explanation, others, labels.long(), masks, labels.long())
    kept.write(folder / KEPT_TEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run <b>&"
    (run / ".hydra").mkdir(parents=True)
    config = {"name": HOSTILE, "data": {"_target_": "vaex.data.MVTec", "category": "bottle"}, "score": {"name": "own"}}
    (run / ".hydra" / "config.yaml").write_text(json.dumps(config))
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([f"name={HOSTILE}"]))
    record = {"status": "finished", "command": f"vaex train name={HOSTILE}", "seed": 3, "wall_seconds": 60.0}
    (run / "run.json").write_text(json.dumps(record))
    test = {"loss": 3.0, "pixel_auroc": 0.91, "aupro": 0.8, f"aupro_own/{HOSTILE}": 0.7, "aupro_own": 0.8}
    test |= {"aupro_other": 0.9, f"aupro_other/{HOSTILE}": 0.95}
    (run / "metrics.json").write_text(json.dumps({"test": test, "val": {"loss": 2.0}}))
    rows = ["epoch,step,train/loss,val/loss,test/loss", "0,9,5,,", "0,9,,6,", "1,19,4,,", "1,19,,5,", "2,20,,,3"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    for name in ("traversal_test", "traversal_val", "mutual_information_test", "attention_test"):
        save_png(np.zeros((4, 4, 3), np.uint8), run / "figures" / f"{name}.png")
    keep_test(run)
    return run


def test_the_page_holds_every_part(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert not page.open
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        *(
            "summary",
            "metrics",
            "gallery",
            "failures",
            "kinds",
            "traversals",
            "factors",
            "pictures",
            "curves",
            "config",
        ),
    ]
    assert [link["href"] for link in page.all("a")][1:] == [f"#{name}" for name in sections]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for reference in ("aria-labelledby", "aria-describedby", "for"):
        assert {attributes[reference] for _, attributes in page.tags if attributes.get(reference)} <= set(ids)
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert sum("aria-label" in svg for svg in page.all("svg")) == 6  # five curves, one of training


def test_numbers_of_pixels_have_their_resolution(folder: Path) -> None:
    assert "compared at" not in write_report(folder).read_text()  # its config states none
    path = folder / ".hydra" / "config.yaml"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "metrics": {"resolution": 48}}))
    page = Page(write_report(folder).read_text())
    assert sum("compared at 48 pixels a side" in text for tag, text in page.texts if tag == "p") == 2


def test_nothing_is_fetched(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert not page.all("link")
    for _, attributes in page.tags:
        assert "src" not in attributes or str(attributes["src"]).startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = (meta for meta in page.all("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in str(policy["content"])


def test_hostile_names_stay_text(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert HOSTILE not in text
    page = Page(text)
    assert len(page.all("script")) == 2
    shown = {tag for tag, words in page.texts if HOSTILE in words}
    assert {"title", "h1", "code", "th"} <= shown
    assert any(tag == "pre" and "</script><script>" in words for tag, words in page.texts)
    assert HOSTILE in {item["kind"] for item in page.data()["gallery"]["items"]}


def test_numbers_stand_beside_the_paper_and_the_controls(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    words = [text for tag, text in page.texts if tag in ("td", "th")]
    row = words[words.index("expVAE") :]
    assert row[2] == "0.8700"  # pixel AUROC of bottle in table 2 of the paper
    assert "own (this run's score)" in words
    assert {"0.9500", "0.7000"} <= set(words)


def test_failures_are_named_worst_first(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    failures = {i["name"]: i["failure"] for i in page.data()["gallery"]["items"] if i["failure"]}
    assert failures["test image 0"] == {"rank": 0, "why": "missed: 12 of 12 normal images score higher"}
    assert failures["test image 23"]["why"] == "false alarm: scores above 11 of 12 anomalous images"
    assert len(failures) == 2


def test_points_and_levels_fit_together(folder: Path) -> None:
    data = Page(write_report(folder).read_text()).data()
    count = len(data["pixel"]["thresholds"])
    assert {len(data["pixel"][name]) for name in ("fpr", "tpr", "precision", "pro")} == {count}
    assert [one["title"] for one in data["gallery"]["maps"] if one["threshold"]] == ["own (this run's score)"]
    assert len(data["gallery"]["maps"]) == 5  # own score, other score, three latents


def test_other_runs_stand_beside_it(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps({"test": {"loss": 1.25}}))
    text = write_report(folder, [str(other)], tmp_path / "page.html").read_text()
    assert "1.2500" in text
    assert not (folder / "report.html").exists()


def test_a_run_that_kept_little_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"val": {"loss": 1.0}}')
    (tmp_path / KEPT_TEST).parent.mkdir()
    (tmp_path / KEPT_TEST).write_bytes(b"damaged")
    text = write_report(tmp_path).read_text()
    assert "kept no images" in text
    assert [part["id"] for part in Page(text).all("section")] == ["summary", "metrics", "gallery"]


def test_a_page_that_fails_does_not_lose_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_report(tmp_path) is None
    assert "no report written" in capsys.readouterr().err


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    with pytest.raises(VaexError, match="vaex report run=RUN_FOLDER"):
        report_on(OmegaConf.create({"run": None, "runs": None, "out": None}))
    with pytest.raises(VaexError, match="no run folder"):
        write_report(tmp_path / "none")
    with pytest.raises(VaexError, match=r"no metrics\.json"):
        write_report(tmp_path)


# --- in a browser

PROBE = """
<script>
(function () {
  const get = (id) => document.getElementById(id), result = {};
  const shown = () => [...document.querySelectorAll("#cards button")].map((b) => b.getAttribute("aria-label"));
  const change = (id, value) => { get(id).value = value; get(id).dispatchEvent(new Event("input")); };
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const ink = () => {
    const c = document.querySelector("#cards canvas");
    [copy.canvas.width, copy.canvas.height] = [c.width, c.height];
    copy.drawImage(c, 0, 0);
    const p = copy.getImageData(0, 0, c.width, c.height).data;
    let sum = 0; for (let i = 0; i < p.length; i += 4) sum += p[i] - p[i + 2];
    return sum;
  };
  const dot = () => document.querySelector('.dot[data-curve="pixel"]').getAttribute("cx");
  result.ready = document.documentElement.dataset.ready;
  result.first = shown()[0];
  change("order", "least"); result.least = shown()[0]; change("order", "most");
  change("show", "wrong"); result.wrong = shown(); change("show", "all");
  change("map", "plain"); result.plain = ink();
  change("map", "0"); result.map = ink();
  change("opacity", "0"); result.transparent = ink(); change("opacity", "75");
  get("outline").checked = false; get("outline").dispatchEvent(new Event("input")); result.bare = ink();
  const before = dot(); change("pixel-threshold", "0"); result.moved = dot() !== before; result.all = ink();
  result.painted = get("paint").checked;
  change("pixel-threshold", get("pixel-threshold").max); result.few = ink();
  result.told = get("pixel-value").textContent;
  change("image-threshold", "0"); result.every = shown().every((t) => t.includes("called anomalous"));
  document.querySelector("#cards button").click(); result.dialog = get("large").open;
  result.views = document.querySelectorAll("#large-maps canvas").length;
  get("large-close").click(); result.closed = !get("large").open;
  result.failures = document.querySelectorAll("#failure-cards canvas").length;
  result.title = document.title; result.images = [...document.images].map((i) => i.naturalWidth);
  result.wide = document.documentElement.scrollWidth <= window.innerWidth;
  const node = document.createElement("pre"); node.id = "result";
  node.textContent = "RESULT" + btoa(unescape(encodeURIComponent(JSON.stringify(result)))) + "END";
  document.body.append(node);
})();
</script>
"""

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000"),
)


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page in Chromium; return what it prints and what the page wrote to its console."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    command = [program, *FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_controls_work_in_a_browser(folder: Path, tmp_path: Path) -> None:
    import base64

    page = tmp_path / "probed.html"
    page.write_text(write_report(folder).read_text().replace("</body>", PROBE + "</body>"))
    printed, console = browse(page, tmp_path / "profile", "--dump-dom")
    assert console == []
    found = re.search("RESULT([A-Za-z0-9+/=]*)END", printed)
    assert found, printed[-2000:]
    result = json.loads(base64.b64decode(found[1]))
    assert result["ready"] == "true"
    assert result["first"].startswith("test image 1,")
    assert result["least"].startswith("test image 0,")
    assert HOSTILE in result["least"]
    assert sorted(text.partition(",")[0] for text in result["wrong"]) == ["test image 0", "test image 23"]
    assert abs(result["plain"] - result["map"]) > 1000
    assert result["transparent"] != result["map"]
    assert result["moved"]
    assert result["painted"]
    assert result["all"] > result["few"]  # orange where the score exceeds: red without blue
    assert "0.00 % of normal pixels" in result["told"]
    assert result["every"]
    assert result["dialog"]
    assert result["closed"]
    assert result["views"] == 2 + 5  # image, reconstruction, maps
    assert result["failures"] == 2
    assert result["title"] == HOSTILE + ", seed 3"
    assert set(result["images"]) == {4}
    assert result["wide"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_is_drawn_in_both_schemes(folder: Path, tmp_path: Path, scheme: str) -> None:
    from PIL import Image

    page, shot = write_report(folder), tmp_path / "shot.png"
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    _, console = browse(page, tmp_path / "profile", *dark, "--window-size=390,900", f"--screenshot={shot}")
    assert console == []
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert (pixels[-1, 0] < 60) == (scheme == "dark")
    assert pixels.std() > 5
