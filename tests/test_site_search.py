"""The search of the documentation site, in a real browser: a word is typed, and a result opens the page that has it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.commands.browser import Browser, chromium
from tests.test_site import build

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")]

RESULTS = "document.querySelectorAll('.md-search-result__link')"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    site = tmp_path / "site"
    build(site)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_word_is_found_and_its_page_opened(address: str, tmp_path: Path) -> None:
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"{address}/index.html")
        browser.until("!!document.querySelector('input.md-search__input')")
        browser.until("document.readyState === 'complete'")
        for word, page in (("hires_cam", "attention"), ("false alarm rate", "inspection.html")):
            browser.ask("document.querySelector('input.md-search__input').focus()")
            browser.ask("document.querySelector('input.md-search__input').value = ''")
            browser.call("Input.insertText", text=word)
            browser.press("ArrowRight")  # the page looks at what is typed when a key goes up
            browser.until(f"[...{RESULTS}].some((a) => a.href.includes({page!r}))")
        browser.ask(f"[...{RESULTS}].find((a) => a.href.includes('inspection.html')).click()")
        browser.until("location.pathname.endsWith('/inspection.html')")
        browser.until("!!document.body && document.body.innerText.toLowerCase().includes('false alarm')")
        assert [url for url in browser.requests if not url.startswith((address, "data:", "blob:"))] == []
        assert browser.errors == []
    finally:
        browser.close()
