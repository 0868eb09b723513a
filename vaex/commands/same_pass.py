"""By what settings a pass of `vaex explain` is made: kept beside its results, and asked of the pass that goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.inspection import Inspection
from vaex.commands.sources import list_option, white_of
from vaex.errors import VaexError
from vaex.runs import strict_json, write_json

KEPT = "explain.json"
"""File beside the tables: the settings of the pass, and what its pictures show."""

TABLE = "explain.csv"


def settings_of(config: DictConfig, model: Any, inspection: Inspection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the results of an image depend on; ``options`` are those of the maps.

    How the work is done (``device``, ``batch_size``) is left out, and so are options without effect on this pass.
    """
    pictures = str(config.pictures).lower()
    data: Any = OmegaConf.to_container(config.data, resolve=True) if config.test_images is not None else None
    images = None if config.images is None else str(Path(config.images).expanduser().resolve())
    told = {
        "images": images if data is None else "of the test set",
        "data": data,
        "data.white": white_of(config.data) if data is None else None,
        "weights": digest_of([model.state_dict(), model.config["network"], model.config.get("prior")]),
        "calibration": digest_of(model.calibration or {}),
        "score": OmegaConf.to_container(config.score, resolve=True),
        "attention": dict(options),
        "threshold": inspection.threshold,
        "pixel_threshold": inspection.pixel_threshold,
        "roi": _region(inspection.roi),
        "min_area": inspection.min_area,
        "tile": config.tile,
        "overlap": None if config.tile is None else config.overlap,
        "pictures": pictures,
    }
    if pictures != "false" and config.tile is None:
        chosen = None if config.latents is None else list_option(config.latents, "latents")
        told |= {"latents": chosen, "max_latents": config.max_latents if chosen is None else None}
    settings: dict[str, Any] = json.loads(strict_json(told, default=str))  # as they are read again
    return settings


def _region(roi: Any) -> Any:
    from vaex.data.download import file_digest

    return f"{roi} (sha256 {file_digest(roi)[:12]})" if isinstance(roi, Path) else roi


def digest_of(value: Any) -> str:
    """Return the first 12 digits of the sha256 of plain values and tensors, in mappings and lists."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Mapping):
            for key in sorted(part, key=str):
                digest.update(f"{key}:".encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        elif hasattr(part, "cpu"):
            array = part.detach().cpu().numpy()
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(f"{part!r};".encode())

    add(value)
    return digest.hexdigest()[:12]


def read_kept(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the earlier pass in ``out`` kept, if it was made with ``settings``.

    Raises:
        VaexError: when there is none, or when it was made with others.
    """
    file = out / KEPT
    try:
        kept: Any = json.loads(file.read_text(encoding="utf-8"))
        before = kept["settings"]
        differs = [key for key in {**settings, **before} if before.get(key) != settings.get(key)]
    except FileNotFoundError:
        raise VaexError(
            f"Cannot resume: {out} holds no pass that can go on (no {KEPT}); check out=, or leave resume out to look "
            "at all images."
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise VaexError(f"Cannot resume: {file} cannot be read ({error}); leave resume out to start anew.") from error
    if differs:
        told = "; ".join(f"{key} was {_short(before.get(key))} and is {_short(settings.get(key))}" for key in differs)
        raise VaexError(
            f"Cannot resume the pass in {out}, which was made with other settings: {told}. Repeat its own, or choose "
            "another out= and leave resume out."
        )
    return dict(kept)


def is_empty(out: Path) -> bool:
    """Return whether no pass has left anything in ``out``."""
    return not (out / KEPT).exists() and not (out / TABLE).exists()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else strict_json(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


@contextmanager
def settings_kept(
    out: Path, settings: Mapping[str, Any], resumed: bool, more: Callable[[], Mapping[str, Any]]
) -> Iterator[None]:
    """Keep the settings of the pass that the body makes; ``more`` is called when the tables stand.

    They are written first, so that a pass that is killed can be resumed, though from its first image. Where tables of
    another pass stand, which this one replaces, they are written last: until then nothing tells whose tables they are.
    """
    file = out / KEPT
    first = not resumed and not (out / TABLE).exists()
    if first:
        write_json(file, {"settings": settings})
    elif not resumed:
        file.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if first:
            file.unlink(missing_ok=True)
        raise
    write_json(file, {"settings": settings, **more()})
