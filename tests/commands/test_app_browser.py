"""`vaex app` in a real browser: an upload, a slider moved by the mouse, a download, and its end by Ctrl-C."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.browser import Browser, chromium
from tests.commands.test_app_tiles import draw, save_checkpoint
from vaex.data.render import example_sprites

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed"),
]

SLIDER = "#slider0 input[type=range]"
SHOWN = "document.querySelector('#{0} img') ? document.querySelector('#{0} img').src : ''"
WORDS = "document.querySelector('#words').innerText"


def start(*arguments: str, program: Sequence[str] = ("-m", "vaex")) -> tuple[subprocess.Popen[str], str]:
    """Start the app on a free port; return it and its address."""
    command = [sys.executable, *program, "app", *arguments]
    # In the background of a shell SIGINT is ignored, and what is started there would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    line = process.stdout.readline()
    while line.startswith("Images are scored in tiles"):
        line = process.stdout.readline()
    if not line.startswith("Look at "):
        process.kill()
        pytest.fail(line + process.communicate()[1])
    return process, line.split()[2].rstrip(";")


@pytest.fixture
def app() -> Iterator[str]:
    process, address = start()
    yield address
    process.send_signal(signal.SIGINT)  # as Ctrl-C does, with the page still open
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, err) == ("", "vaex: interrupted.\n")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    found = Browser(tmp_path / "profile")
    yield found
    found.close()


def pixels(address: str) -> np.ndarray:
    with urllib.request.urlopen(address) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())))


def test_an_image_is_dropped_its_latents_moved_and_its_maps_taken(app: str, browser: Browser, tmp_path: Path) -> None:
    file, broken = tmp_path / "sprite.png", tmp_path / "broken.png"
    Image.fromarray((example_sprites(1)[0] * 255).astype(np.uint8)).resize((200, 150)).save(file)
    broken.write_bytes(b"not an image")

    browser.open(app)
    browser.until("!!document.querySelector('#file input[type=file]')")
    browser.upload("#file input[type=file]", broken)
    browser.until(f"{WORDS}.includes('broken.png cannot be read as an image')")
    browser.click("#file button[aria-label='Clear']")
    browser.until(f"{WORDS}.includes('Drop an image')")

    browser.upload("#file input[type=file]", file)
    browser.until(f"!!({SHOWN.format('maps')}) && {WORDS}.includes('200 x 150 pixels, seen as 64 x 64')")
    images, maps = (browser.ask(SHOWN.format(name)) for name in ("images", "maps"))
    value = float(browser.until(f"document.querySelector('{SLIDER}').value"))
    before = pixels(images), pixels(maps)
    low, high = (float(browser.ask(f"document.querySelector('{SLIDER}').{end}")) for end in ("min", "max"))
    browser.drag(SLIDER, (value - low) / (high - low), 0.1 if value > 0 else 0.9)
    browser.until(f"{WORDS}.includes('decoded from the sliders')")
    browser.until(f"({SHOWN.format('images')}) !== {images!r} && ({SHOWN.format('maps')}) !== {maps!r}")
    assert abs(float(browser.ask(f"document.querySelector('{SLIDER}').value")) - value) > 1
    after = pixels(browser.ask(SHOWN.format("images"))), pixels(browser.ask(SHOWN.format("maps")))
    for old, new in zip(before, after, strict=True):
        assert old.shape == new.shape
        assert (old != new).any(-1).sum() > 100

    browser.click("#zip")
    address = browser.until("document.querySelector('#made a') && document.querySelector('#made a').href")
    with urllib.request.urlopen(address) as answer, zipfile.ZipFile(io.BytesIO(answer.read())) as archive:
        arrays = np.load(io.BytesIO(archive.read("maps.npz")))
        assert arrays["maps"].shape == arrays["decoded_maps"].shape == (10, 64, 64)
        assert not np.array_equal(arrays["maps"], arrays["decoded_maps"])

    assert [url for url in browser.requests if not url.startswith((app, "data:", "blob:"))] == []
    assert browser.errors == []


def test_a_large_image_is_looked_at_tile_by_tile(browser: Browser, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.ckpt")
    draw(tmp_path)
    process, address = start(f"ckpt={tmp_path / 'model.ckpt'}")
    try:
        browser.open(address)
        browser.until("!!document.querySelector('#file input[type=file]')")
        assert "it is scored in tiles of 24 pixels that share 8" in browser.until(WORDS)
        assert not browser.ask("!!document.querySelector('#tile input')")
        browser.upload("#file input[type=file]", tmp_path / "defect.png")
        browser.until(f"!!({SHOWN.format('maps')}) && {WORDS}.includes('Below is tile 1 by score')")
        assert "the highest of 12 tiles" in browser.ask(WORDS)
        before = {name: browser.ask(SHOWN.format(name)) for name in ("whole", "images", "maps")}
        for place in (6, 3):
            option = f"[role=option][data-index='{place - 1}']"

            def choose_tile(option: str = option) -> None:
                browser.click("#tile input")
                browser.until(f"!!document.querySelector({option!r})", 10)
                browser.click(option)

            browser.repeat(choose_tile, f"{WORDS}.includes('Below is tile {place} by score')")
            assert browser.ask("document.querySelector('#tile input').value").startswith(f"{place}: ")
        after = {name: browser.ask(SHOWN.format(name)) for name in before}
        assert not set(before.values()) & set(after.values())
        value = float(browser.until(f"document.querySelector('{SLIDER}').value"))
        low, high = (float(browser.ask(f"document.querySelector('{SLIDER}').{end}")) for end in ("min", "max"))
        browser.drag(SLIDER, (value - low) / (high - low), 0.1 if value > 0 else 0.9)
        browser.until(f"{WORDS}.includes('decoded from the sliders')")
        browser.click("#zip")
        made = browser.until("document.querySelector('#made a') && document.querySelector('#made a').href")
        assert "/defect_x" in made
        with urllib.request.urlopen(made) as answer, zipfile.ZipFile(io.BytesIO(answer.read())) as archive:
            about = json.loads(archive.read("about.json"))
        assert about["tile"]["rank"] == 3
        assert about["moved"]  # leaving the list of tiles has undone nothing
        assert browser.errors == []
    finally:
        process.kill()
        process.communicate()


ENDLESS = """
import pathlib, sys, time
import torch
from vaex.attention.image_methods import IntegratedGradients, SmoothGradient
from vaex.cli import main

def endless_at_first(method):
    own, calls = method.maps, []

    def maps(self, view):
        calls.append(view)
        pathlib.Path(__file__).with_name(method.__name__).touch()
        while len(calls) == 1:
            torch.nn.Identity()(torch.zeros(1))
            time.sleep(0.05)
        return own(self, view)

    method.maps = maps

endless_at_first(SmoothGradient)
endless_at_first(IntegratedGradients)
sys.exit(main(sys.argv[1:]))
"""


def choose(browser: Browser, name: str) -> None:
    """Choose a method of the maps, by the mouse."""
    option = f"#method [role=option][aria-label='{name}'], [role=listbox] [aria-label='{name}']"

    def take() -> None:
        browser.click("#method input")
        browser.until(f"!!document.querySelector({option!r})", 10)
        browser.click(option)

    browser.repeat(take, f"document.querySelector('#method input').value === {name!r}")


def test_a_method_without_end_is_stopped(browser: Browser, tmp_path: Path) -> None:
    program = tmp_path / "endless.py"
    program.write_text(ENDLESS)
    process, address = start(program=[str(program)])
    try:
        browser.open(address)
        browser.until("!!document.querySelector('#example')")
        browser.repeat(lambda: browser.click("#example"), f"!!({SHOWN.format('maps')}) && {WORDS}.includes('score')")
        maps = browser.ask(SHOWN.format("maps"))
        waiting = "!!document.querySelector('#maps .progress-text, #maps .eta-bar, #words .generating, .progress-text')"
        choose(browser, "smooth_gradient")
        browser.until(waiting)
        # on a busy machine the work may not have begun when the page says so
        browser.repeat(lambda: browser.click("#stop"), f"{WORDS}.includes('Stopped. Choose another method')")
        assert browser.ask(SHOWN.format("maps")) == maps
        choose(browser, "hires_cam")
        browser.until(f"({SHOWN.format('maps')}) !== {maps!r} && {WORDS}.includes('whatever maps are chosen')", 240)
        assert browser.errors == []
    finally:
        process.kill()
        process.communicate()


def test_another_image_ends_what_is_under_way_and_so_does_leaving(browser: Browser, tmp_path: Path) -> None:
    program = tmp_path / "endless.py"
    program.write_text(ENDLESS)
    for name, sprite in zip(("first.png", "second.png"), example_sprites(2), strict=True):
        Image.fromarray((sprite * 255).astype(np.uint8)).save(tmp_path / name)
    upload, clear = "#file input[type=file]", "#file button[aria-label='Clear']"

    def begun(method: str) -> None:
        limit = time.monotonic() + 60
        while not (tmp_path / method).exists():
            assert time.monotonic() < limit
            time.sleep(0.05)

    process, address = start(program=[str(program)])
    try:
        browser.open(address)
        browser.until(f"!!document.querySelector('{upload}') && !!document.querySelector('#method input')")
        choose(browser, "smooth_gradient")
        browser.upload(upload, tmp_path / "first.png")
        begun("SmoothGradient")
        browser.until(f'!!document.querySelector("{clear}")')
        browser.click(clear)
        browser.until(f"!!document.querySelector('{upload}')")
        browser.upload(upload, tmp_path / "second.png")
        browser.until(f"{WORDS}.includes('second.png') && {WORDS}.includes('whatever maps are chosen')")
        assert browser.errors == []
        choose(browser, "integrated_gradients")
        begun("IntegratedGradients")
        browser.open(address)  # the model is held by what nobody waits for
        browser.until(f"!!document.querySelector('{upload}') && !{WORDS}.includes('second.png')")
        browser.repeat(lambda: browser.click("#example"), f"{WORDS}.includes('an example sprite')")
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_before_anybody_came() -> None:
    process, address = start("port=0")
    port = address.rpartition(":")[2]
    taken = subprocess.run(
        [sys.executable, "-m", "vaex", "app", f"port={port}"], capture_output=True, text=True, check=False, timeout=120
    )
    assert taken.returncode == 1
    assert taken.stderr.startswith(f"vaex app: No page at 127.0.0.1:{port}")
    assert len(taken.stderr.splitlines()) == 1
    os.kill(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "vaex: interrupted.\n"
    assert process.returncode == 130
