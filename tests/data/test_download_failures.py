"""Downloads that fail: what is said, what is tried next and what is left on disk."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vaex.data.download import fetch_file
from vaex.errors import VaexError

if TYPE_CHECKING:
    from tests.data.conftest import Answer, Mirror, Request

ANY_MD5 = "0" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "data.bin"


def part_of(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path.with_name("data.bin.part")


def status(code: int) -> Answer:
    return lambda request: request.send(b"no", code)


def log_in(request: Request) -> None:
    """Answer like the login page of a hotel."""
    request.send(b"<html>log in</html>")


def test_a_404_goes_on_to_the_next_url(mirror: Mirror, path: Path) -> None:
    fetch_file([mirror.url("/gone", status(404)), mirror.url("/a", mirror.plain)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content


def test_a_wrong_hash_goes_on_to_the_next_url(mirror: Mirror, path: Path) -> None:
    fetch_file([mirror.url("/bad", log_in), mirror.url("/a", mirror.ranged)], path, md5=mirror.md5)
    assert path.read_bytes() == mirror.content
    assert mirror.asked == [("/bad", None), ("/a", None)]  # no range: the wrong bytes were thrown away


def test_a_wrong_hash_alone_leaves_nothing(mirror: Mirror, path: Path) -> None:
    found = hashlib.sha256(b"<html>log in</html>").hexdigest()
    with pytest.raises(VaexError, match=rf"its sha256 is {found}, expected {mirror.sha256}"):
        fetch_file([mirror.url("/bad", log_in)], path, sha256=mirror.sha256)
    assert list(path.parent.iterdir()) == []


def test_one_digest_of_two_wrong_is_wrong(mirror: Mirror, path: Path) -> None:
    with pytest.raises(VaexError, match="its sha256 is"):
        fetch_file([mirror.url("/a", mirror.plain)], path, md5=mirror.md5, sha256="0" * 64)


def test_when_all_fail_one_sentence_tells_every_reason_and_the_way_out(mirror: Mirror, path: Path) -> None:
    urls = [mirror.url("/gone", status(404)), mirror.url("/busy", status(503)), mirror.url("/bad", log_in)]
    with pytest.raises(VaexError) as caught:
        fetch_file(urls, path, md5=mirror.md5)
    text = str(caught.value)
    assert text.startswith("Could not download data.bin (")
    assert f"{urls[0]}: HTTP 404 Not Found; {urls[1]}: HTTP 503 Service Unavailable; {urls[2]}: its md5 is" in text
    assert text.endswith(f": fetch it by hand and put it at {path}.")
    with pytest.raises(VaexError, match=r"\): ask Anna\.$"):
        fetch_file(urls, path, md5=mirror.md5, advice="ask Anna")


@pytest.mark.usefixtures("mirror")
def test_offline(path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        with pytest.raises(VaexError, match=rf"\({url}: Connection refused; http://nowhere\.invalid/a: \S"):
            fetch_file([url, "http://nowhere.invalid/a"], path, md5=ANY_MD5)
    assert list(path.parent.iterdir()) == []


def test_a_silent_server_is_given_up_and_what_it_sent_is_kept(mirror: Mirror, path: Path) -> None:
    done = threading.Event()

    def never(_: Request) -> None:
        done.wait(10)

    def half(request: Request) -> None:
        if not request.start:
            mirror.promise(request)
        done.wait(10)

    for answer, kept in ((never, 0), (half, mirror.half)):
        with pytest.raises(VaexError, match="timed out"):
            fetch_file([mirror.url("/a", answer)], path, md5=mirror.md5, timeout=0.1)
        part = part_of(path)
        assert (part.read_bytes() if part.exists() else b"") == mirror.content[:kept]
    done.set()


def test_a_server_that_always_cuts_is_given_up_and_its_bytes_are_kept(mirror: Mirror, path: Path) -> None:
    def drip(request: Request) -> None:
        start, end = request.start, len(mirror.content)
        code, headers = (206, {"Content_Range": f"bytes {start}-{end - 1}/{end}"}) if start else (200, {})
        request.send(mirror.content[start : start + 10], code, Content_Length=str(end - start), **headers)

    with pytest.raises(VaexError, match=r"cut after \d+ of 300000 bytes \(after \d+ tries\)"):
        fetch_file([mirror.url("/a", drip)], path, md5=mirror.md5)
    assert len(mirror.asked) > 2
    assert part_of(path).read_bytes() == mirror.content[: 10 * len(mirror.asked)]


def test_a_wrong_range_is_not_appended(mirror: Mirror, path: Path) -> None:
    part_of(path).write_bytes(mirror.content[:1234])
    shifted = mirror.url("/a", lambda request: request.send(b"x", 206, Content_Range="bytes 1235-1235/300000"))
    with pytest.raises(VaexError, match="another range"):
        fetch_file([shifted], path, md5=mirror.md5)
    assert part_of(path).read_bytes() == mirror.content[:1234]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("plain", "300000 bytes are more than the limit of 299999"),
        ("chunks", "more than the limit of 299999 bytes came"),
    ],
)
def test_a_file_over_the_limit_is_discarded(mirror: Mirror, path: Path, way: str, message: str) -> None:
    url = mirror.url("/a", getattr(mirror, way))
    with pytest.raises(VaexError, match=message):
        fetch_file([url], path, md5=mirror.md5, size_limit=299_999)
    assert sum(found.stat().st_size for found in path.parent.iterdir()) == 0
    assert fetch_file([url], path, md5=mirror.md5, size_limit=300_000).read_bytes() == mirror.content


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,x", "/etc/hostname", ""])
def test_only_web_addresses_are_taken(mirror: Mirror, path: Path, url: str) -> None:
    with pytest.raises(VaexError, match="only http and https addresses"):
        fetch_file([mirror.url("/a", mirror.plain), url], path, md5=mirror.md5)
    assert mirror.asked == []


def test_a_redirect_out_of_the_web_is_refused(mirror: Mirror, path: Path) -> None:
    away = mirror.url("/away", lambda request: request.send(b"", 302, Location="ftp://127.0.0.1/a"))
    with pytest.raises(VaexError, match=r"redirected to ftp://127\.0\.0\.1/a, which is neither http nor https"):
        fetch_file([away], path, md5=mirror.md5)


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("url", ["http://", "http://[", "http://127.0.0.1:port/a", "http://nowhere.invalid/a b\n"])
def test_a_malformed_address_is_one_more_failure(path: Path, url: str) -> None:
    with pytest.raises(VaexError, match=r"Could not download data\.bin"):
        fetch_file([url], path, md5=ANY_MD5)


@pytest.mark.parametrize(
    ("md5", "sha256", "message"),
    [
        (None, None, "needs its md5 or sha256"),
        ("abc", None, r"md5 of data\.bin must be 32 hexadecimal digits, got 'abc'"),
        (None, ANY_MD5, r"sha256 of data\.bin must be 64"),
    ],
)
def test_a_hash_is_required(path: Path, md5: str | None, sha256: str | None, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        fetch_file(["http://127.0.0.1/a"], path, md5=md5, sha256=sha256)
    assert not path.parent.exists()


def test_no_url_at_all(path: Path) -> None:
    with pytest.raises(VaexError, match="no URL is known"):
        fetch_file([], path, md5=ANY_MD5)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VaexError, match=r"^Cannot write \S+file"):
        fetch_file(["http://127.0.0.1/a"], tmp_path / "file" / "data.bin", md5=ANY_MD5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_not_blamed_on_the_server(mirror: Mirror, path: Path) -> None:
    part_of(path).symlink_to("/dev/full")
    with pytest.raises(VaexError, match=r"^Cannot write \S+data\.bin\.part: No space left on device"):
        fetch_file([mirror.url("/a", mirror.plain)], path, md5=mirror.md5)
