"""A web server on this machine that the tests of downloads tell how to behave, and image files to read."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request, answered by the function registered for its path."""

    server: Mirror

    @property
    def start(self) -> int:
        """First byte asked for."""
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        with contextlib.suppress(ConnectionError):  # a client may hang up
            self.server.answers[self.path](self)

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the parent's
        pass


class Mirror(ThreadingHTTPServer):
    """The server: ``content`` to give, ``asked`` the paths and ranges so far, and ways to answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.content = random.Random(0).randbytes(300_000)
        self.half = len(self.content) // 2
        self.md5 = hashlib.md5(self.content).hexdigest()
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return f"http://127.0.0.1:{self.server_port}{path}"

    def plain(self, request: Request) -> None:
        """Answer like a server that knows no ranges."""
        request.send(self.content)

    def ranged(self, request: Request) -> None:
        """Answer like a server that knows ranges."""
        start, end = request.start, len(self.content)
        if start >= end:
            request.send(b"", 416, Content_Range=f"bytes */{end}")
        elif start:
            request.send(self.content[start:], 206, Content_Range=f"bytes {start}-{end - 1}/{end}")
        else:
            self.plain(request)

    def promise(self, request: Request) -> None:
        """Announce everything and send half."""
        request.send(self.content[: self.half], Content_Length=str(len(self.content)))

    def chunks(self, request: Request) -> None:
        """Send everything without telling the length."""
        self._chunks(request, self.content, b"0\r\n\r\n")

    def half_the_chunks(self, request: Request) -> None:
        """Send half without telling the length, nor that it is the end."""
        self._chunks(request, self.content[: self.half], b"")

    def _chunks(self, request: Request, content: bytes, end: bytes) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.send_header("Connection", "close")
        request.end_headers()
        for start in range(0, len(content), 65536):
            piece = content[start : start + 65536]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        request.wfile.write(end)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Server of one test; proxies are left aside."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,nowhere.invalid")
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Return a function that writes an image file below ``tmp_path``: random pixels by name, or the array given."""

    def write(name: str, pixels: Any = None, size: tuple[int, int] = (16, 16), **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            generator = np.random.default_rng(list(name.encode()))
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(np.asarray(pixels)).save(path, **options)
        return path

    return write


@pytest.fixture
def category(draw: Draw, tmp_path: Path) -> Path:
    """Return ``tmp_path``, which holds ``mvtec/nut``: 10 images to train on, 2 good, 2 bent and 1 cut to test on."""
    for i in range(10):
        draw(f"mvtec/nut/train/good/{i:03d}.png")
    for kind, count in {"good": 2, "bent": 2, "cut": 1}.items():
        for i in range(count):
            draw(f"mvtec/nut/test/{kind}/{i:03d}.png")
            if kind != "good":
                mask = np.zeros((16, 16), dtype=np.uint8)
                mask[i + 2 : i + 6, 3:9] = 255
                draw(f"mvtec/nut/ground_truth/{kind}/{i:03d}_mask.png", mask)
    return tmp_path
