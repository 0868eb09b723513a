"""A real Chromium, headless, driven over its DevTools pipe: nothing beside the standard library is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    """Return the program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


LEFT = (
    *("Inspected target navigated or closed", "Execution context was destroyed."),
    "Cannot find context with specified id",
)
"""What Chromium says where a page is left while it is asked."""


class LeftPageError(Exception):
    """The page was left before it answered."""


class Browser:
    """One tab; requests and errors of the page are kept."""

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000) -> None:
        program = chromium()
        assert program is not None
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser)]  # away from 3 and 4
        script = f'exec 3<&{ends[0]} 4>&{ends[1]}; exec "$@"'
        command = [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self.number, self.buffer, self.session = 0, b"", ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.write)
        os.close(self.read)

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session and not method.startswith(("Target", "Browser")) else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        limit = time.monotonic() + 60
        while True:
            answer = self._next(limit)
            if answer.get("id") == self.number:
                if answer.get("error", {}).get("message") in LEFT:
                    raise LeftPageError(answer)
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _next(self, limit: float) -> Any:
        while b"\0" not in self.buffer:
            if not select.select([self.read], [], [], max(0.0, limit - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self.read, 1 << 16)
            if not part:
                raise EOFError("Chromium ended")
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, event: Any) -> None:
        told, said = event.get("method"), event.get("params", {})
        if told == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif told == "Runtime.exceptionThrown":
            self.errors.append(str(said["exceptionDetails"])[:500])
        elif told == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"] + " " + said["entry"].get("url", ""))
        elif told == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.errors.append(str(said["args"])[:500])

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which may be a promise."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true and return its value."""
        limit = time.monotonic() + seconds
        while True:
            with suppress(LeftPageError):  # the next one has an answer
                if value := self.ask(expression):
                    return value
            assert time.monotonic() < limit, f"never true: {expression}\n{self.ask('document.body.innerText')[:2000]}"
            time.sleep(0.1)

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=address)

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file in an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def _mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def press(self, key: str) -> None:
        """Press and release a key: Tab, Enter, Escape or an arrow."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        text = {"text": "\r"} if key == "Enter" else {}
        told = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def place(self, selector: str) -> list[float]:
        """Scroll to an element and return its left, top, width and height in the window."""
        found = f"document.querySelector({selector!r})"
        self.ask(f"{found}.scrollIntoView({{block: 'center'}})")
        asked = f"JSON.stringify({found}.getBoundingClientRect())"
        box = json.loads(self.ask(asked))
        return [box[side] for side in ("left", "top", "width", "height")]

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        left, top, width, height = self.place(selector)
        self._mouse("mousePressed", left + width / 2, top + height / 2)
        self._mouse("mouseReleased", left + width / 2, top + height / 2)

    def repeat(self, action: Callable[[], None], expression: str, seconds: float = 120) -> Any:
        """Do something until an expression is true, every ten seconds: a page may not listen yet."""
        limit = time.monotonic() + seconds
        while True:
            action()
            try:
                return self.until(expression, 10)
            except AssertionError:
                if time.monotonic() > limit:
                    raise

    def drag(self, selector: str, start: float, end: float) -> None:
        """Drag within an element from one share of its width to another."""
        left, top, width, height = self.place(selector)
        middle = top + height / 2
        self._mouse("mousePressed", left + start * width, middle)
        for step in range(1, 6):
            self._mouse("mouseMoved", left + (start + (end - start) * step / 5) * width, middle)
        self._mouse("mouseReleased", left + end * width, middle)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write what is seen as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
