"""The report in a real browser: its controls by mouse and by keyboard, in both schemes, narrow, with hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.browser import Browser, chromium
from tests.commands.test_report import HOSTILE, NORMAL, folder, keep_test  # noqa: F401 - a fixture
from vaex.commands.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")]

READY = "document.documentElement && document.documentElement.dataset.ready === 'true'"
HELPERS = """
const get = (id) => document.getElementById(id);
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
const selectable = (id) => [...get(id).options].map((o) => o.textContent);
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    found = Browser(tmp_path / "profile")
    yield found
    assert found.errors == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    found.close()


def opened(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.until(READY)
    browser.ask(HELPERS)


def test_controls_work(folder: Path, browser: Browser) -> None:  # noqa: F811
    keep_test(folder, NORMAL)
    opened(browser, write_report(folder))
    ask = browser.ask
    assert ask("shown()[0]").startswith("test image 1,")
    assert ask("get('image-value').textContent").startswith("19 (calibrated): 8.3\u00a0% of normal and 25.0\u00a0%")
    ask("change('order', 'least')")
    assert ask("shown()[0]").startswith("test image 0,")
    assert HOSTILE in ask("shown()[0]")
    ask("change('order', 'most')")
    ask("change('map', 'plain')")
    plain, disabled = ask("ink()"), ask("get('method').disabled")
    ask("change('map', '2')")
    own, both = ask("ink()"), ask("get('bar-high').textContent")
    assert disabled
    assert "latent 0 by grad_cam; one scale" in both
    assert abs(plain - own) > 1000
    assert ask("selectable('method')") == ["grad_cam (this run's)", "hires_cam"]
    ask("change('method', 'hires_cam')")
    assert ask("ink()") != own
    assert "latent 0 by hires_cam" in ask("get('bar-high').textContent")
    shaded = ask("ink()")
    ask("change('opacity', '0')")
    assert ask("ink()") != shaded
    ask("change('opacity', '75')")
    ask("document.querySelector('#cards button').click()")
    assert ask("get('large').open")
    assert ask("document.querySelectorAll('#large-maps canvas.view').length") == 2 + 2 + 3  # of one method alone
    assert "by hires_cam, share the scale 0 to " in ask("get('large-note').textContent")
    assert ask("get('large-bar-low').textContent") == "0"
    assert ask("document.querySelectorAll('#large-maps .bar canvas').length") == 2  # a scale below each score map
    ask("get('large-close').click()")
    assert not ask("get('large').open")
    assert ask("document.title") == HOSTILE + ", seed 3"
    assert set(ask("[...document.images].map((i) => i.naturalWidth)")) == {4}


def test_thresholds_paint_and_judge(folder: Path, browser: Browser) -> None:  # noqa: F811
    keep_test(folder, NORMAL)
    opened(browser, write_report(folder))
    ask = browser.ask
    start = ask("dot()")
    ask("change('pixel-threshold', '0')")
    everything = ask("ink()")
    assert ask("dot()") != start
    assert ask("get('paint').checked")
    ask("change('pixel-threshold', get('pixel-threshold').max)")
    assert everything > ask("ink()")  # orange where the score exceeds: red without blue
    assert "0.00\u00a0% of normal pixels" in ask("get('pixel-value').textContent")
    ask("change('image-threshold', '0')")
    assert ask("shown().every((t) => t.includes('called anomalous'))")
    browser.click("button[data-slider=image-threshold]")  # the first one: calibrated
    assert ask("get('image-value').textContent").startswith("19 (calibrated)")
    assert ask("document.querySelector('button[data-slider=image-threshold]').getAttribute('aria-pressed')") == "true"
    called = sorted(text.partition(",")[0] for text in ask("shown()") if "called anomalous" in text)
    assert called == ["test image 1", "test image 2", "test image 23", "test image 3"]  # those above 19
    browser.click("button[data-slider=image-threshold]:nth-of-type(2)")
    assert "(highest F1)" in ask("get('image-value').textContent")
    ask("change('show', 'wrong')")
    assert sorted(text.partition(",")[0] for text in ask("shown()")) == ["test image 0", "test image 23"]
    assert ask("document.querySelectorAll('#failure-cards canvas').length") == 8 + 1  # at the calibrated threshold


def test_the_keyboard_is_enough(folder: Path, browser: Browser) -> None:  # noqa: F811
    keep_test(folder, NORMAL)
    opened(browser, write_report(folder))
    ask = browser.ask
    browser.press("Tab")
    assert ask("document.activeElement.textContent") == "Skip to the content"
    browser.press("Enter")
    assert ask("location.hash") == "#main"
    reached = []
    for _ in range(60):
        browser.press("Tab")
        reached.append(ask("document.activeElement.id || document.activeElement.textContent.slice(0, 12)"))
        if reached[-1].startswith("test image"):
            break
    assert {"map", "order", "show", "opacity", "outline", "paint"} <= set(reached)
    assert "method" not in reached  # a score map is first, which has none
    assert {"image-threshold", "pixel-threshold", "Calibrated", "Highest F1"} <= set(reached)
    browser.press("Enter")
    assert ask("get('large').open")
    browser.press("Escape")
    assert not ask("get('large').open")
    ask("get('image-threshold').focus()")
    before = ask("get('image-threshold').value")
    browser.press("ArrowLeft")
    assert int(ask("get('image-threshold').value")) == int(before) - 1
    assert ask("get('image-threshold').getAttribute('aria-valuetext')") == ask("get('image-value').textContent")


def test_unlabelled_images_and_one_alone(folder: Path, browser: Browser) -> None:  # noqa: F811
    for count in (24, 1):
        for normal in (NORMAL, None):
            keep_test(folder, normal, count=count, labelled=False)
            opened(browser, write_report(folder, out=folder / f"{count}{normal is None}.html"))
            assert browser.ask("shown().length") == count - (0 if count == 1 else 8)
            text = browser.ask("document.body.innerText")
            assert ("% of test images are called anomalous" in text) == (normal is not None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screenshot_is_drawn_in_both_schemes(
    folder: Path,  # noqa: F811
    browser: Browser,
    tmp_path: Path,
    scheme: str,
) -> None:
    shot = tmp_path / "shot.png"
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=False)
    opened(browser, write_report(folder))
    assert browser.ask("document.documentElement.scrollWidth <= window.innerWidth")
    heads = "[...document.querySelectorAll('tbody th')].map((one) => one.offsetWidth)"
    assert min(browser.ask(heads)) > 100  # names are read in words, not letter by letter
    browser.screenshot(shot)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert (pixels[-1, 0] < 60) == (scheme == "dark")
    assert pixels.std() > 5
