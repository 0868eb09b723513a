"""The run folder: where its files lie, and reading and writing them atomically. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaex.errors import VaexError
from vaex.intake import check_checkpoint_archive, check_pickle, check_plain, harmless_cell

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
REPORT = "report.html"
KEPT_TEST = Path("maps") / "report_test.npz"  # what a test leaves for the report
SHIPPED = Path(__file__).parent / "checkpoints"


def unfinished(path: Path) -> Path:
    """Return the name beside ``path`` under which this process writes what becomes ``path`` when it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that ``path`` holds either the old or the whole new content."""
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise VaexError(f"Cannot write {path} ({reason}); free space or choose another folder.") from error
    finally:
        if temporary.exists():  # the write failed half-way
            temporary.unlink()


def strict_json(content: Any, **options: Any) -> str:
    """Return ``content`` as JSON that every program reads: NaN and infinities, which JSON does not have, are null.

    ``options`` are those of ``json.dumps``.
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; see `strict_json`."""
    write_atomic(path, strict_json(content, indent=2, sort_keys=True, default=str) + "\n")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield another path to write to; what lies there becomes ``path`` when the body ends without an error.

    Raises:
        VaexError: when the body meets an error of the system, such as a full disk.
    """
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise VaexError(f"Cannot write {path} ({reason}); free space or choose another folder.") from error
    finally:
        if temporary.exists():  # the body or the write failed
            temporary.unlink()


@contextmanager
def npz_writer(path: Path) -> Iterator[Callable[[str, Any], None]]:
    """Yield a function (name, array) that adds an array to the .npz at ``path``; memory stays that of one array.

    The file appears when the body ends without an error.
    """
    import numpy as np

    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:

        def store(name: str, array: Any) -> None:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", buffer.getvalue())

        yield store


@contextmanager
def csv_writer(path: Path, columns: Sequence[str] | None = None) -> Iterator[Callable[..., None]]:
    """Yield a function that appends a row, a mapping, to the csv at ``path``; no row stays in memory.

    ``columns`` are by default those of the first row. The file appears when the body ends without an error. Text that a
    spreadsheet would run as a formula gets an apostrophe in front, unless the row comes ``as_read`` from such a file.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writers: list[csv.DictWriter[str]] = []

        def begin(names: Sequence[str]) -> None:
            writers.append(csv.DictWriter(file, names))
            writers[0].writerow({name: harmless_cell(name) for name in names})

        def append(row: Mapping[str, Any], as_read: bool = False) -> None:
            if not writers:
                begin(list(row))
            writers[0].writerow(row if as_read else {name: harmless_cell(value) for name, value in row.items()})

        if columns is not None:
            begin(columns)
        yield append


@contextmanager
def json_writer(path: Path, head: Mapping[str, Any], key: str) -> Iterator[Callable[[Any], None]]:
    """Yield a function that appends an item to the list ``key`` of the JSON object at ``path``, after ``head``.

    Each item has its line, and none stays in memory. The file appears when the body ends without an error.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        lines = [f"{strict_json(name)}: {strict_json(value)}," for name, value in head.items()]
        file.write("\n".join(["{", *lines, f"{strict_json(key)}: ["]))
        separator = "\n"

        def append(item: Any) -> None:
            nonlocal separator
            file.write(separator + strict_json(item))
            separator = ",\n"

        yield append
        file.write("\n]}\n")


def json_items(path: Path, key: str) -> Iterator[Any]:
    """Yield the items of the list ``key`` that `json_writer` wrote to ``path``; one is in memory at a time.

    Raises:
        ValueError: when the file is of another kind or cut short.
    """
    with path.open(encoding="utf-8") as file:
        if not any(line == f"{strict_json(key)}: [\n" for line in file):
            raise ValueError(f"no list of {key}")
        for line in file:
            if line == "]}\n":
                return
            yield json.loads(line.rstrip("\n").removesuffix(","))
    raise ValueError("cut short")


def shipped_names() -> list[str]:
    """Return the names of the checkpoints that come with vaex."""
    return sorted(path.stem for path in SHIPPED.glob("*.ckpt"))


def best_checkpoint(run: Path) -> Path | None:
    """Return the run's best checkpoint (``best*.ckpt``, newest), else its last one, else None."""
    folder = run / CHECKPOINTS
    best = sorted(folder.glob("best*.ckpt"), key=lambda path: path.stat().st_mtime)
    if best:
        return best[-1]
    last = folder / LAST
    return last if last.is_file() else None


def stopped_at(path: str | Path) -> Path:
    """Return the checkpoint at which a run folder's training stopped, its last one; otherwise as `find_checkpoint`."""
    last = Path(path).expanduser() / CHECKPOINTS / LAST
    return last if last.is_file() else find_checkpoint(path)


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint file that ``path`` means: a file, a run folder, or the name of a shipped checkpoint.

    Raises:
        VaexError: when there is none.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (found := best_checkpoint(path)) is not None:
            return found
        raise VaexError(
            f"Run folder {path} holds no checkpoint ({CHECKPOINTS}/best*.ckpt or {CHECKPOINTS}/{LAST}); "
            "train it first, or name a checkpoint file."
        )
    if str(path) in shipped_names():
        return SHIPPED / f"{path}.ckpt"
    names = ", ".join(shipped_names()) or "none in this installation"
    raise VaexError(f"No checkpoint at {path}: expected a .ckpt file, a run folder, or a shipped name ({names}).")


class _Object:
    """Stands for every class in a checkpoint while only its plain values are read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Object  # no name in the file is ever looked up, so none can run

    def persistent_load(self, pid: Any) -> None:
        return None  # tensors are not needed


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the plain config inside a checkpoint without importing torch, for errors that should come fast.

    Its ``run.score`` is the one that the checkpoint was last calibrated for, where that is known.

    Raises:
        VaexError: when the file is damaged, holds no config, or one of more than plain values.
    """
    file = find_checkpoint(path)
    try:
        check_checkpoint_archive(file)
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl")
            data = archive.read(name)
        check_pickle(data)
        content = _PlainUnpickler(io.BytesIO(data)).load()
        config = content["hyper_parameters"]
        score = (content.get("calibration") or {}).get("score")
    except VaexError:
        raise
    except Exception as error:  # pickle raises nearly anything for damaged input
        raise VaexError(
            f"Checkpoint {file} cannot be read: it is cut short, damaged or not a vaex checkpoint; use another one."
        ) from error
    if not isinstance(config, dict) or "network" not in config:
        raise VaexError(f"{file} is not a vaex checkpoint: its hyper_parameters hold no network.")
    if score is not None and isinstance(config.get("run") or {}, dict):
        config = {**config, "run": {**(config.get("run") or {}), "score": score}}
    check_plain(config, f"The config in {file}")
    return config
