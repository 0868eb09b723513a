"""Fetching one file: several URLs, resumed where it stopped, checked by its hash before it gets its name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from vaex.errors import VaexError

SIZE_LIMIT = 2**34
"""Most bytes that `fetch_file` accepts unless told otherwise: 16 GiB."""

_CHUNK = 1 << 20
_TRIES = 20  # per URL, each after one that brought new bytes or discarded wrong ones
_HEX_DIGITS = {"md5": 32, "sha256": 64}


class _FailedError(Exception):
    """This URL will not give the file."""


class _InterruptedError(Exception):
    """The transfer stopped before the end; what came is kept."""


def fetch_file(
    urls: Sequence[str],
    path: str | os.PathLike[str],
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size_limit: int = SIZE_LIMIT,
    timeout: float = 30.0,
    advice: str | None = None,
) -> Path:
    """Fetch a file from the first URL that has the right content, and return its ``path``.

    Bytes are collected in ``path`` + ``.part``, which survives a cut connection or Ctrl-C and is continued by
    the next call, from whichever URL answers. Only a file whose hash is right gets its name. A file that is
    there already is checked and not fetched. Where the system can, concurrent calls for one folder wait for
    each other. A progress bar is drawn on stderr when that is a terminal.

    Args:
        urls: http or https addresses of the same content, tried in turn.
        path: file to write; its folder is made.
        md5: hexadecimal digest of the content; at least one of ``md5`` and ``sha256`` is needed.
        sha256: hexadecimal digest of the content.
        size_limit: bytes after which a transfer is given up and discarded.
        timeout: seconds without an answer or a byte after which a URL is given up.
        advice: last part of the error when every URL failed: what the reader can do instead.

    Raises:
        VaexError: when every URL failed, no hash is given, a URL is neither http nor https, the file that is
            there has another hash, or the folder cannot be written.
    """
    path = Path(path)
    digests = _digests(path, md5, sha256)
    for url in urls:
        if not _is_web(url):
            raise VaexError(f"Cannot download '{url}': only http and https addresses are taken.")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path.parent):
            if path.exists():
                if wrong := _mismatch(path, digests):
                    raise VaexError(f"{path} is not the file expected ({wrong}); delete it to download it again.")
                return path
            failures = []
            for url in urls:
                try:
                    _fetch(url, part, digests, size_limit, timeout)
                except _FailedError as failure:
                    failures.append(f"{url}: {failure}")
                else:
                    part.replace(path)
                    return path
    except OSError as error:  # those of the network have become failures
        raise VaexError(
            f"Cannot write {error.filename or part}: {error.strerror or error}; free space or choose another folder."
        ) from error
    advice = advice or f"fetch it by hand and put it at {path}"
    raise VaexError(f"Could not download {path.name} ({'; '.join(failures) or 'no URL is known'}): {advice}.")


def file_digest(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file by a name that hashlib knows, read in pieces."""
    with Path(path).open("rb") as file:
        # Here MD5 identifies a file and protects no secret; systems in FIPS mode want to be told.
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _digests(path: Path, md5: str | None, sha256: str | None) -> dict[str, str]:
    digests = {name: text.lower() for name, text in (("md5", md5), ("sha256", sha256)) if text is not None}
    if not digests:
        raise VaexError(f"Downloading {path.name} needs its md5 or sha256, or nothing could tell a damaged file.")
    for name, text in digests.items():
        if not re.fullmatch(f"[0-9a-f]{{{_HEX_DIGITS[name]}}}", text):
            raise VaexError(f"The {name} of {path.name} must be {_HEX_DIGITS[name]} hexadecimal digits, got '{text}'.")
    return digests


def _mismatch(path: Path, digests: dict[str, str]) -> str:
    """Return what is wrong with the content, or nothing."""
    for name, expected in digests.items():
        found = file_digest(path, name)
        if found != expected:
            return f"its {name} is {found}, expected {expected}"
    return ""


def _fetch(url: str, part: Path, digests: dict[str, str], size_limit: int, timeout: float) -> None:
    """Bring ``part`` to the right content, or raise `_FailedError`."""
    for _ in range(_TRIES):
        before = _size(part)
        try:
            _transfer(url, part, size_limit, timeout)
        except _InterruptedError as interruption:
            if _size(part) <= before:
                raise _FailedError(str(interruption)) from None
            reason = str(interruption)
            continue
        wrong = _mismatch(part, digests)
        if not wrong:
            return
        part.unlink()
        if not before:
            raise _FailedError(wrong)
        reason = wrong  # perhaps only the old beginning was wrong: once more without it
    raise _FailedError(f"{reason} (after {_TRIES} tries)")


def _transfer(url: str, part: Path, size_limit: int, timeout: float) -> None:
    """Make one request and append to ``part`` what it lacks, or write it anew where the server knows no ranges."""
    have = _size(part)
    headers = {"User-Agent": "vaex", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked by fetch_file()
        response = urllib.request.build_opener(_WebOnly).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return  # nothing is left to fetch; the hash tells whether that is because all is there
        raise _FailedError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _InterruptedError(_brief(error)) from None
    with response:
        resumed = response.status == 206
        start = have if resumed else 0
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            raise _FailedError("the server answered with another range than the one asked for")
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        if max(total or 0, start) > size_limit:
            part.unlink(missing_ok=True)
            raise _FailedError(f"{total or start} bytes are more than the limit of {size_limit}")
        with part.open("ab" if resumed else "wb") as file, _progress(part.stem, start, total) as (bar, task):
            while total is None or start < total:
                chunk = _read(response)
                if not chunk:
                    break
                file.write(chunk)
                file.flush()  # so that a sudden end loses nothing
                start += len(chunk)
                bar.advance(task, len(chunk))
                if start > size_limit:
                    file.truncate(0)
                    raise _FailedError(f"more than the limit of {size_limit} bytes came")
    if total is not None and start < total:
        raise _InterruptedError(f"the connection was cut after {start} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)  # what is there now, so that little is lost when the connection breaks
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _InterruptedError(_brief(error)) from None


def _brief(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone; urllib would also follow one to ftp."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not _is_web(newurl):
            raise urllib.error.URLError(f"redirected to {newurl}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    terminal = sys.stderr is not None and sys.stderr.isatty()  # rich would also draw where FORCE_COLOR is set
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        yield bar, bar.add_task(name, completed=start, total=total)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, which leaves no file behind and ends with the process."""
    descriptor = None
    try:
        import fcntl  # absent on Windows

        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass  # some network file systems lock no folder: go on alone
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
