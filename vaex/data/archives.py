"""Unpacking an archive that may be damaged or hostile: nothing outside the folder, no links, all of it or nothing."""

from __future__ import annotations

import io
import lzma
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from vaex.errors import VaexError

UNPACKED_LIMIT = 2**36
"""Most bytes that an archive may hold unless told otherwise: 64 GiB."""

MOST_MEMBERS = 1_000_000
"""Most files and folders that an archive may hold; a million empty ones cost no bytes and fill a disk all the same."""

_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 24  # tarfile reads long names and extended headers whole, whatever they claim to be
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError)


class _Member(NamedTuple):
    name: str
    kind: str  # file, folder, or what it is instead
    content: IO[bytes] | None


class _BoundedHeader(tarfile.TarInfo):
    """A header whose extensions are read only where they are of a sane size: packed, one may unpack to gigabytes."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extension = not self.isreg() and not self.isdir()
        if extension and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def unpack_archive(archive: Path, folder: Path, size_limit: int = UNPACKED_LIMIT) -> list[str]:
    """Unpack a .zip or a .tar (plain, .gz, .xz, .bz2) and return the names that are now in ``folder``, sorted.

    Everything is unpacked beside its destination first; what lies at the archive's top is moved into ``folder`` only
    when all of it could be read. What ``folder`` has already stays as it is. Owners and permissions are not restored.

    Raises:
        VaexError: when a member would lie outside ``folder``, is a link or device, the archive is truncated, damaged
            or no archive, holds more than ``size_limit`` bytes, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking_") as temporary:
            place = Path(temporary)
            left = size_limit
            for count, member in enumerate(_members(archive), 1):
                if count > MOST_MEMBERS:
                    raise VaexError(f"{archive} holds more than {MOST_MEMBERS} files and folders; do not use it.")
                left -= _write(archive, member, place, left)
            names = sorted(path.name for path in place.iterdir())
            for name in names:
                try:
                    if not (folder / name).exists():
                        (place / name).rename(folder / name)
                except OSError:
                    if not (folder / name).exists():  # else another process was faster
                        raise
    except _DAMAGED as error:
        raise VaexError(
            f"{archive} is truncated, damaged or no archive ({str(error) or type(error).__name__}); delete it and "
            "fetch it again."
        ) from error
    except OSError as error:
        raise VaexError(
            f"Cannot unpack {archive} into {folder} ({error.strerror or error}); free space or choose another folder."
        ) from error
    return names


def _is_tar(archive: Path) -> bool:
    try:
        tarfile.open(archive, tarinfo=_BoundedHeader).close()
    except tarfile.TarError:
        return False
    return True


def _members(archive: Path) -> Iterator[_Member]:
    if not _is_tar(archive) and zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as content:
            for info in content.infolist():
                mode = stat.S_IFMT(info.external_attr >> 16)
                if mode == stat.S_IFLNK:
                    yield _Member(info.filename, "a link", None)
                elif info.is_dir():
                    yield _Member(info.filename, "folder", None)
                else:
                    try:
                        stream = content.open(info)
                    except RuntimeError as error:  # it asks for a password
                        raise zipfile.BadZipFile(str(error)) from error
                    with stream:
                        yield _Member(info.filename, "file", stream)
        return
    with tarfile.open(archive, tarinfo=_BoundedHeader) as content:
        for entry in content:
            if entry.isdir():
                yield _Member(entry.name, "folder", None)
            elif entry.isreg():
                yield _Member(entry.name, "file", content.extractfile(entry))
            else:
                yield _Member(entry.name, "a link" if entry.issym() or entry.islnk() else "a device", None)
        raw = content.fileobj
        if isinstance(raw, io.BufferedReader):  # a compressed one has a checksum, a plain one only its end mark
            raw.seek(content.offset)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it stops before its end mark")


def _write(archive: Path, member: _Member, place: Path, limit: int) -> int:
    """Write one member below ``place`` and return its bytes."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:|.*[\\\0]", member.name, re.DOTALL):
        raise VaexError(f"{archive} tries to write '{member.name}', outside its folder; do not use it.")
    if member.kind not in ("file", "folder"):
        raise VaexError(f"{archive} holds {member.kind}, '{member.name}', which vaex does not unpack; do not use it.")
    target = place.joinpath(*path.parts)
    if member.content is None:
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while chunk := member.content.read(_CHUNK):
            file.write(chunk)
            if file.tell() > limit:
                raise VaexError(f"{archive} holds more than the limit in bytes; do not use it, or raise the limit.")
        return file.tell()
