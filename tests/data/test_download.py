"""Downloads that succeed: at once, resumed after an interruption, from the next URL, one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vaex.data.download import fetch_file, file_digest
from vaex.errors import VaexError

if TYPE_CHECKING:
    from tests.data.conftest import Mirror, Request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "data.bin"


def part_of(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path.with_name("data.bin.part")


@pytest.mark.parametrize("names", [["md5"], ["sha256"], ["md5", "sha256"]])
def test_a_file_is_fetched_whole(mirror: Mirror, path: Path, names: list[str]) -> None:
    md5, sha256 = (getattr(mirror, name).upper() if name in names else None for name in ("md5", "sha256"))
    assert fetch_file([mirror.url("/a", mirror.plain)], path, md5=md5, sha256=sha256) == path
    assert path.read_bytes() == mirror.content
    assert [found.name for found in path.parent.iterdir()] == ["data.bin"]
    assert mirror.asked == [("/a", None)]


def test_a_file_that_is_there_is_checked_and_not_fetched(mirror: Mirror, path: Path) -> None:
    url = mirror.url("/a", mirror.plain)
    path.parent.mkdir()
    path.write_bytes(mirror.content)
    assert fetch_file([url], path, md5=mirror.md5) == path
    path.write_bytes(b"mine")
    with pytest.raises(
        VaexError, match=rf"data.bin is not the file expected \(its md5 is \w+, expected {mirror.md5}\)"
    ):
        fetch_file([url], path, md5=mirror.md5)
    assert path.read_bytes() == b"mine"
    assert mirror.asked == []


@pytest.mark.parametrize("first", ["promise", "half_the_chunks"])
def test_a_cut_connection_is_resumed(mirror: Mirror, path: Path, first: str) -> None:
    url = mirror.url("/a", lambda request: (mirror.ranged if request.start else getattr(mirror, first))(request))
    fetch_file([url], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/a", None), ("/a", f"bytes={mirror.half}-")]


def test_a_file_of_unknown_length(mirror: Mirror, path: Path) -> None:
    fetch_file([mirror.url("/a", mirror.chunks)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content


def test_a_partial_file_of_an_earlier_call_is_resumed_from_another_url(mirror: Mirror, path: Path) -> None:
    part_of(path).write_bytes(mirror.content[:1234])
    gone = mirror.url("/gone", lambda request: request.send(b"no", 404))
    fetch_file([gone, mirror.url("/a", mirror.ranged)], path, sha256=mirror.sha256)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/gone", "bytes=1234-"), ("/a", "bytes=1234-")]


def test_a_server_without_ranges_starts_again(mirror: Mirror, path: Path) -> None:
    part_of(path).write_bytes(mirror.content[:1234])
    fetch_file([mirror.url("/a", mirror.plain)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/a", "bytes=1234-")]


def test_a_complete_partial_file_needs_no_bytes(mirror: Mirror, path: Path) -> None:
    part_of(path).write_bytes(mirror.content)
    fetch_file([mirror.url("/a", mirror.ranged)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/a", f"bytes={len(mirror.content)}-")]


@pytest.mark.parametrize("length", [1234, 300_000, 300_005])
def test_a_wrong_partial_file_costs_one_more_request(mirror: Mirror, path: Path, length: int) -> None:
    part_of(path).write_bytes(b"x" * length)
    fetch_file([mirror.url("/a", mirror.ranged)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/a", f"bytes={length}-"), ("/a", None)]


def test_a_redirect_is_followed(mirror: Mirror, path: Path) -> None:
    there = mirror.url("/there", mirror.plain)
    fetch_file([mirror.url("/a", lambda request: request.send(b"", 302, Location=there))], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Take SIGINT as Python does, also where a shell started the tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_came_for_the_next_call(mirror: Mirror, path: Path) -> None:
    part, done = part_of(path), threading.Event()

    def half_then_stall(request: Request) -> None:
        mirror.promise(request)
        done.wait(10)

    def press() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size == mirror.half):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    url = mirror.url("/a", half_then_stall)
    finger = threading.Thread(target=press)
    finger.start()
    with pytest.raises(KeyboardInterrupt):
        fetch_file([url], path, md5=mirror.md5)
    finger.join()
    done.set()
    assert not path.exists()
    assert part.read_bytes() == mirror.content[: mirror.half]
    fetch_file([mirror.url("/a", mirror.ranged)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/a", None), ("/a", f"bytes={mirror.half}-")]


@pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
def test_calls_at_once_fetch_once(mirror: Mirror, path: Path) -> None:
    def slow(request: Request) -> None:
        time.sleep(0.2)
        mirror.plain(request)

    url = mirror.url("/a", slow)
    threads = [threading.Thread(target=fetch_file, args=([url], path), kwargs={"md5": mirror.md5}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == mirror.content
    assert len(mirror.asked) == 1


def test_a_pipe_gets_no_progress_bar(
    mirror: Mirror, path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # set by some CI services, and taken by rich for a terminal
    fetch_file([mirror.url("/a", mirror.plain)], path, md5=mirror.md5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_a_terminal_gets_a_progress_bar_on_stderr(
    mirror: Mirror, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    screen, terminal = os.openpty()
    os.set_blocking(screen, False)
    with os.fdopen(terminal, "w") as stream, contextlib.closing(os.fdopen(screen, "rb", buffering=0)) as shown:
        monkeypatch.setattr(sys, "stderr", stream)
        fetch_file([mirror.url("/a", mirror.plain)], path, md5=mirror.md5)
        stream.flush()
        text = (shown.read(1 << 16) or b"").decode()
    assert "data.bin" in text
    assert "300.0" in text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_file_digest_is_that_of_the_content(tmp_path: Path, name: str) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(content)
    assert file_digest(tmp_path / "x", name) == hashlib.new(name, content).hexdigest()
