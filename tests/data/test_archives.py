"""Archives: what is in them arrives, what is wrong with them is told, and nothing is written outside the folder."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vaex.data import archives
from vaex.data.archives import unpack_archive
from vaex.errors import VaexError

CONTENT = {"a/b/x.txt": b"x" * 100_000, "a/y.txt": b"y", "z.txt": b""}


def packed(path: Path, content: dict[str, bytes] | None = None, extra: tarfile.TarInfo | None = None) -> Path:
    content = CONTENT if content is None else content
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return path
    mode: Any = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if extra is not None:
            archive.addfile(extra)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_everything_arrives(name: str, tmp_path: Path) -> None:
    archive = packed(tmp_path / name)
    assert unpack_archive(archive, tmp_path / "out") == ["a", "z.txt"]
    assert files(tmp_path / "out") == CONTENT


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "own.txt").write_bytes(b"mine")
    unpack_archive(packed(tmp_path / "a.zip"), tmp_path / "out")
    assert files(tmp_path / "out") == {"a/own.txt": b"mine", "z.txt": b""}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/tmp/vaex_evil.txt", "a\\..\\evil", "C:evil.txt"])
def test_a_member_outside_is_refused(suffix: str, name: str, tmp_path: Path) -> None:
    archive = packed(tmp_path / f"a{suffix}", {"good.txt": b"1", name: b"2"})
    with pytest.raises(VaexError, match="outside its folder"):
        unpack_archive(archive, tmp_path / "in" / "out")
    assert files(tmp_path) == {archive.name: archive.read_bytes()}
    assert not Path("/tmp/vaex_evil.txt").exists()


@pytest.mark.parametrize(
    ("kind", "word"), [(tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.FIFOTYPE, "a device")]
)
def test_links_and_devices_are_refused(kind: bytes, word: str, tmp_path: Path) -> None:
    extra = tarfile.TarInfo("a/link")
    extra.type, extra.linkname = kind, "/etc/passwd"
    with pytest.raises(VaexError, match=f"holds {word}, 'a/link'"):
        unpack_archive(packed(tmp_path / "a.tar", extra=extra), tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(VaexError, match="holds a link, 'link'"):
        unpack_archive(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_archive_leaves_nothing(name: str, share: float, tmp_path: Path) -> None:
    archive = packed(tmp_path / name, {"a/x.bin": bytes(range(256)) * 2000, "b/y.bin": b"1" * 5000})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(VaexError, match="truncated, damaged or no archive"):
        unpack_archive(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("rest", [b"", b"\1" * 512, b"\0" * 100])
def test_a_plain_archive_that_stops_between_two_files_is_refused(rest: bytes, tmp_path: Path) -> None:
    """tarfile itself takes what came for the whole."""
    archive = packed(tmp_path / "a.tar", {"a": b"1" * 512, "b": b"2" * 512})
    archive.write_bytes(archive.read_bytes()[:1024] + rest)
    with pytest.raises(VaexError, match="truncated, damaged or no archive"):
        unpack_archive(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_an_archive_whose_last_file_is_a_zip_is_not_taken_for_one(tmp_path: Path) -> None:
    inner = packed(tmp_path / "inner.zip", {"x": b"1"}).read_bytes()
    assert unpack_archive(packed(tmp_path / "a.tar", {"at:1": b"2", "inner.zip": inner}), tmp_path / "out") == [
        "at:1",
        "inner.zip",
    ]


def test_what_is_no_archive_and_what_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(VaexError, match="no archive"):
        unpack_archive(tmp_path / "x.tar.gz", tmp_path / "out")
    with pytest.raises(VaexError, match="more than the limit"):
        unpack_archive(packed(tmp_path / "a.zip"), tmp_path / "out", size_limit=50_000)
    assert files(tmp_path / "out") == {}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(VaexError, match="Cannot unpack"):
        unpack_archive(packed(tmp_path / "a.zip"), tmp_path / "out")


def test_a_header_that_unpacks_to_gigabytes_is_not_read(tmp_path: Path) -> None:
    """An extended header of 1 GB of zeros takes 1 MB in the file; it is not even unpacked here, only claimed."""
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 2**30
        with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
            file.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 22))
        tracemalloc.start()
        with pytest.raises(VaexError, match="a header of 1073741824 bytes"):
            unpack_archive(tmp_path / "x.tar.gz", tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**22
    assert files(tmp_path / "out") == {}


def test_more_files_than_a_disk_takes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    for name in ("x.tar.gz", "x.zip"):
        assert unpack_archive(packed(tmp_path / name, {f"{i}": b"" for i in range(3)}), tmp_path / f"good{name}")
        with pytest.raises(VaexError, match="holds more than 3 files and folders"):
            unpack_archive(packed(tmp_path / name, {f"{i}": b"" for i in range(4)}), tmp_path / "out")
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.xz", "x.zip"])
def test_a_bomb_stops_at_the_limit(name: str, tmp_path: Path) -> None:
    bomb = packed(tmp_path / name, {"zeros": bytes(1 << 24)})
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(VaexError, match="holds more than the limit in bytes"):
        unpack_archive(bomb, tmp_path / "out", size_limit=1 << 20)
    assert files(tmp_path / "out") == {}


def test_a_long_name_within_reason_arrives(tmp_path: Path) -> None:
    name = "/".join(["n" * 200] * 3)
    unpack_archive(packed(tmp_path / "x.tar.gz", {name: b"x"}), tmp_path / "out")
    assert files(tmp_path / "out") == {name: b"x"}
