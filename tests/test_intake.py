"""What files from elsewhere may hold: bombs, circles and codes, each built here as an attacker would."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaex.build import load, read_checkpoint
from vaex.errors import VaexError
from vaex.intake import check_pickle, check_plain, harmless_cell, one_line, printable, text_of_cell
from vaex.runs import read_config

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_pass(value: Any) -> None:
    check_plain(value, "The config")


@given(PLAIN, st.sampled_from([b"bytes", {1, 2}, 1j, torch.ones(1), object(), print, Path("/")]))
def test_one_other_value_anywhere_is_found(value: Any, other: Any) -> None:
    for whole in ({"a": value, "b": {"c": other}}, [value, [other]]):
        with pytest.raises(VaexError, match=f"The config.* is of type {type(other).__name__}, expected text"):
            check_plain(whole, "The config")


def laughs() -> Any:
    value: Any = ["lol"] * 10
    for _ in range(20):  # 10 ** 21 values, in some kilobytes
        value = [value] * 10
    return value


def circle() -> Any:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


def deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("make", [laughs, circle, deep, lambda: list(range(10**6)), lambda: {(1, 2): 3}])
def test_what_would_not_end_is_refused(make: Any) -> None:
    with pytest.raises(VaexError, match=r"nested more than 32 deep|a key of type tuple"):
        check_plain(make(), "The config")


@pytest.mark.parametrize("make", [laughs, circle])
def test_a_small_checkpoint_that_would_not_end_is_refused_by_both_readers(make: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"network": NETWORK, "run": make()}}, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size < 10_000
    for read in (read_config, read_checkpoint):
        with pytest.raises(VaexError, match=r"The config in .* nested more than 32 deep"):
            read(tmp_path / "a.ckpt")


def rewritten(path: Path, **options: Any) -> Path:
    """A sound checkpoint, with its archive written anew."""
    torch.save({"state_dict": {}, "hyper_parameters": {"network": NETWORK}}, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", **options) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    assert read_config(rewritten(tmp_path / "stored.ckpt"))["network"] == NETWORK  # the control
    packed = rewritten(tmp_path / "packed.ckpt", compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9", bytes(10**7))
    assert packed.stat().st_size < 50_000
    for read in (read_config, read_checkpoint):
        with pytest.raises(VaexError, match=r"is packed: it would unpack to 1.* bytes"):
            read(packed)


def test_members_that_share_bytes_are_not_read(tmp_path: Path) -> None:
    """A hundred directory entries point at one member, as in a zip bomb without compression."""
    file = rewritten(tmp_path / "a.ckpt")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("big", bytes(100_000))
        entry = archive.getinfo("big")
        for number in range(100):
            twin = zipfile.ZipInfo(f"twin{number}")
            twin.header_offset, twin.file_size, twin.compress_size = entry.header_offset, 100_000, 100_000
            twin.CRC = zlib.crc32(bytes(100_000))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    for read in (read_config, read_checkpoint):
        with pytest.raises(VaexError, match="is packed: it would unpack"):
            read(file)


def test_a_pickle_that_reserves_memory_is_refused(tmp_path: Path) -> None:
    bomb = b"\x80\x02}r\xff\xff\xff\x7f."  # 12 bytes; an empty dict remembered as number 2147483647
    check_pickle(pickle.dumps({"a": [1, "x"]}, protocol=2))
    with pytest.raises(ValueError, match="the memo 2147483647"):
        check_pickle(bomb)
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", bomb)
    with pytest.raises(VaexError, match="cannot be read: it is cut short, damaged"):
        read_config(tmp_path / "a.ckpt")


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    """Else what lies behind it in memory would become weights."""
    torch.save({"state_dict": {"w": torch.zeros(1000)}, "hyper_parameters": {"network": NETWORK}}, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as target:
        for name, content in members.items():
            target.writestr(name, content[:64] if name.endswith("data/0") else content)
    with pytest.raises(VaexError, match="cut short, damaged"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_network_that_its_weights_do_not_fill_is_not_built(tmp_path: Path) -> None:
    huge = {**NETWORK, "width": 10**6, "hidden": 10**6}
    torch.save({"state_dict": {}, "hyper_parameters": {"network": huge}}, tmp_path / "a.ckpt")
    with pytest.raises(VaexError, match="do not fit the network 'conv'"):
        load(tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:Detected pickle protocol")
def test_other_archives_of_torch_are_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with (tmp_path / "both.ckpt").open(
        "wb"
    ) as file:  # a pickle in front of a zip, which both is_zipfile and pickle take
        file.write(pickle.dumps({"state_dict": {}, "hyper_parameters": {"network": {}}}))
        buffer = io.BytesIO()
        torch.save({"state_dict": {}, "hyper_parameters": {"network": NETWORK}}, buffer)
        file.write(buffer.getvalue())
    for name in ("script", "old", "both"):
        with pytest.raises(VaexError, match=r"cut short, damaged|could run code|is packed"):
            read_checkpoint(tmp_path / f"{name}.ckpt")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "=cmd|' /C calc'!A0"]
)
def test_formulas_become_text(text: str) -> None:
    assert harmless_cell(text) == f"'{text}"
    assert text_of_cell(harmless_cell(text)) == text


@pytest.mark.parametrize("value", ["a=b", "", " x", "1.5", -1.5, 3, None, float("-inf")])
def test_other_cells_stay(value: Any) -> None:
    assert harmless_cell(value) is value


@given(st.text())
def test_a_terminal_gets_no_command(text: str) -> None:
    shown = printable(text)
    assert not {character for character in shown if ord(character) < 32} - {"\n", "\t"}
    assert not set(shown) & {"\x7f", "\x9b", "\u202e", "\u2066"}
    assert len(one_line(text).splitlines()) <= 1


def test_what_is_harmless_is_shown_as_it_is() -> None:
    assert printable("Grüße, 数据 ±1\n\tx") == "Grüße, 数据 ±1\n\tx"
    assert printable("\x1b]0;owned\x07\x1b[2J") == "\\x1b]0;owned\\x07\\x1b[2J"
    assert one_line("a\r\n  b\n\nc") == "a b c"
