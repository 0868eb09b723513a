"""What the config of a run folder may do when it is resumed: build vaex's own parts, and write below the folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from omegaconf import OmegaConf

from vaex.config import HYDRA_KEYS, conf_dir
from vaex.errors import VaexError, unknown
from vaex.intake import DEEPEST, MOST_VALUES

BUILT = ("data", "callbacks", "logger")
"""Groups whose parts are named by ``_target_``."""

PLACES = ("path", "folder", "dirpath", "dir", "save_dir", "log_dir", "root_dir", "default_root_dir")
"""Options of callbacks and loggers that say where they write."""

EARLIER = {"callbacks": {"lightning.pytorch.callbacks.RichProgressBar": ("_target_", "refresh_rate")}}
"""What conf/ built before and run folders still name, as `shipped_parts` returns it."""

_TRUST = "type trust=true if you wrote this folder's config yourself"
_KEY_NAME = re.compile(r"\$\{([\w./\[\]]+)\}")
_KEY = re.compile(r"\$\{[\w./]+\}")
_RESOLVER = re.compile(r"\$\{\w[\w.]*:[^${}]*(?:\$\{[\w./]+\}[^${}]*)*\}")


def own_parts_only(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config of a run folder if all it would do is to build vaex's own parts and write below the folder.

    Addresses to download from are left out: only those that vaex knows, or that the user types, are asked.

    Raises:
        VaexError: for a ``_target_`` that is not one of `shipped_parts` or stands elsewhere, keys that are Hydra's own,
            an interpolation that vaex's config does not have, a place outside the folder that a callback or logger
            would write to, an option of a logger that its config does not have, the account of a logger, or a word for
            the trainer that no choice of vaex's has.
    """
    for key in ("defaults", "hydra"):
        if key in content:
            raise VaexError(f"The config in {folder} has the key '{key}', which vaex never keeps there; do not use it.")
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise VaexError(f"{path} is a link that leads out of the run folder, which would be written to; {_TRUST}.")
    for key, item in content.items():
        if key not in BUILT and item is not None:
            _walk(item, key, folder)
    check_expansion(content, f"The config of {folder}")
    values = {**_flat(content), "paths.run": str(folder)}
    for group in BUILT:
        parts = _mapping(content.get(group), group, folder)
        for name, part in ({"": parts} if group == "data" else parts).items():
            _check_part(group, f"{group}.{name}".rstrip("."), _mapping(part, f"{group}.{name}", folder), folder, values)
    _check_trainer(_mapping(content.get("trainer"), "trainer", folder), folder)
    data = {key: None if key in ("urls", "sha256") else value for key, value in (content.get("data") or {}).items()}
    return {**content, "data": data}


def check_expansion(content: Mapping[str, Any], what: str) -> None:
    """Refuse interpolations that refer to one another so often that resolving them would not end.

    Raises:
        VaexError: naming ``what``.
    """
    waiting: list[tuple[Any, tuple[str, ...], int]] = [(content, (), 0)]
    seen = 0
    while waiting:
        value, place, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise VaexError(f"{what} would grow without end when its interpolations are resolved; do not use it.")
        if isinstance(value, Mapping):
            waiting += [(item, (*place, str(key)), depth) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(item, (*place, str(number)), depth) for number, item in enumerate(value)]
        elif isinstance(value, str):
            waiting += [(*_referred(content, name, place), depth + 1) for name in _KEY_NAME.findall(value)]


def _referred(content: Any, name: str, place: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Return what ``${name}`` at ``place`` means, and its place; None where it means nothing."""
    up = len(name) - len(name.lstrip("."))
    keys = (*(place[: len(place) - up] if up else ()), *(key for key in re.split(r"[.\[\]]", name) if key))
    for key in keys:
        if isinstance(content, Mapping):
            content = content.get(key)
        else:
            content = (
                content[int(key)] if isinstance(content, list) and key.isdecimal() and int(key) < len(content) else None
            )
    return content, keys


def _mapping(value: Any, where: str, folder: Path) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise VaexError(f"{where} in the config of {folder} must be a mapping, got {type(value).__name__}.")
    return value or {}


def _check_part(group: str, where: str, part: Mapping[str, Any], folder: Path, values: Mapping[str, Any]) -> None:
    shipped = shipped_parts(group)
    target = part.get("_target_")
    if target is not None and target not in shipped:
        told = unknown(f"class at {where}._target_ in the config of {folder}", str(target), shipped)
        raise VaexError(f"{str(told).removesuffix('.')}; {_TRUST}.")
    rest = {key: value for key, value in part.items() if key != "_target_"}
    _walk(rest, where, folder)
    if group == "data" or target is None:
        return
    if group == "logger" and rest.get("entity") is not None:
        raise VaexError(
            f"The config of {folder} sends the run to the account {where}.entity={rest['entity']}: type that again if "
            f"it is yours, {where}.entity=null for your own, or trust=true."
        )
    for key in rest:
        if group == "logger" and key not in shipped[target]:
            raise VaexError(
                f"The config of {folder} sets {where}.{key}, which conf/logger does not have and could send the run "
                f"elsewhere; {_TRUST}."
            )
    for key, value in _flat(rest).items():
        text = _settled(value, values) if isinstance(value, str) else ""
        named = key.rpartition(".")[2] in PLACES and value is not None
        if (named or _leads_away(text)) and not _below(text, folder):
            raise VaexError(
                f"The config of {folder} would write to {where}.{key}={value}, outside the run folder; {_TRUST}, or "
                f"type {where}.{key}=... anew."
            )


def _check_trainer(trainer: Mapping[str, Any], folder: Path) -> None:
    """Refuse words for Lightning's trainer, which looks them up in its own registries, that vaex never wrote itself."""
    shipped = shipped_words()
    for key, value in _flat(trainer).items():
        words = shipped.get(key.partition(".")[0])
        if isinstance(value, str) and (words is None or (key == "strategy" and value not in words)):
            raise VaexError(
                f"The config of {folder} sets trainer.{key}={value}, which no choice of trainer has: type that again "
                f"if you want it, trainer.{key}=null if not, or trust=true."
            )


def _walk(value: Any, where: str, folder: Path) -> None:
    """Refuse instantiation, and interpolations that are not vaex's own, anywhere in ``value``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in HYDRA_KEYS:
                raise VaexError(
                    f"The config of {folder} has '{key}' at {where}, where nothing is built; do not use it."
                )
            _walk(item, f"{where}.{key}", folder)
    elif isinstance(value, list | tuple):
        for item in value:
            _walk(item, where, folder)
    elif isinstance(value, str) and "${" in value:
        left = _RESOLVER.sub(lambda match: "" if match.group() in shipped_resolvers() else "$REFUSED{", value)
        if "${" in _KEY.sub("", left) or "$REFUSED{" in left:
            raise VaexError(
                f"The config of {folder} holds '{value}' at {where}, which vaex does not evaluate; {_TRUST}, or "
                "put the value itself there."
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return all values by their keys, ``a.b.c``; items of lists by their position."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, item in pairs:
        inner = isinstance(item, Mapping | list | tuple) and len(item) > 0
        flat |= _flat(item, f"{prefix}{key}.") if inner else {f"{prefix}{key}": item}
    return flat


def _settled(text: str, values: Mapping[str, Any], depth: int = 0) -> str:
    """Put in the values of other keys, as Hydra will."""
    if depth > 8:
        return text
    return _KEY.sub(
        lambda match: _settled(str(values.get(match.group()[2:-1], match.group())), values, depth + 1), text
    )


def _leads_away(text: str) -> bool:
    """Tell whether a text is a path that does not stay where it is put."""
    parts = {*PurePosixPath(text).parts, *PureWindowsPath(text).parts}
    return (
        ".." in parts or text[:1] in ("/", "~") or bool(PureWindowsPath(text).anchor) or "://" in text or "${." in text
    )


def _below(text: str, folder: Path) -> bool:
    return ".." not in Path(text).parts and Path(text).is_relative_to(folder) and "${" not in text


@cache
def shipped_parts(group: str) -> dict[str, tuple[str, ...]]:
    """Return what conf/ builds in a group, ``_target_`` -> option names: the registry of what a run folder may name."""
    found: dict[str, tuple[str, ...]] = dict(EARLIER.get(group, {}))
    for file in sorted((conf_dir() / group).glob("*.yaml")):
        content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for part in [content] if group == "data" else (content or {}).values():
            if isinstance(part, Mapping) and "_target_" in part:
                found[part["_target_"]] = (*found.get(part["_target_"], ()), *map(str, part))
    return found


@cache
def shipped_words() -> dict[str, frozenset[str]]:
    """Return the keys of conf/trainer, each with the words that it has there."""
    found: dict[str, set[str]] = {}
    for file in sorted((conf_dir() / "trainer").rglob("*.yaml")):
        content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for key, value in (content or {}).items():
            found.setdefault(str(key), set()).update([value] if isinstance(value, str) else ())
    return {key: frozenset(words) for key, words in found.items() if key != "defaults"}


@cache
def shipped_resolvers() -> frozenset[str]:
    """Return the interpolations by resolvers, such as ``${oc.env:VAEX_DATA,./data}``, that conf/ itself has."""
    texts = (file.read_text(encoding="utf-8") for file in conf_dir().rglob("*.yaml"))
    return frozenset(found for text in texts for found in _RESOLVER.findall(text))
