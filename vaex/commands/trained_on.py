"""Images that a model was trained on are neither held out nor tested: asked where the data may have changed since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaex.data.remembered import Change, change_since
from vaex.errors import VaexError
from vaex.runs import read_config

KEY = "images"
"""Where a checkpoint remembers them, below ``run`` of its config."""


def remember(module: Any, data: Any, last: Path | None = None) -> None:
    """Let the checkpoints of ``module`` remember the images of ``data``, or what ``last``, resumed from, remembers."""
    now = getattr(data, "remembered", None)
    found = now if last is None else _of(read_config(last))
    if found is not None:
        module.hparams["run"][KEY] = found


def _of(config: Mapping[str, Any]) -> Any:
    run = config.get("run")
    return run.get(KEY) if isinstance(run, Mapping) else None


def _change(config: Mapping[str, Any], data: Any) -> Change | None:
    then = _of(config)
    return None if then is None or not hasattr(data, "remembered") else change_since(then, data.remembered)


def check_resumed(last: Path | None, data: Any) -> None:
    """Refuse to go on from ``last`` with other images to train on, or others held out.

    Raises:
        VaexError: then; what was written before this was remembered is taken as it is.
    """
    change = None if last is None else _change(read_config(last), data)
    if change is not None and change.resplit:
        raise VaexError(
            f"Cannot resume: {change.told()}. Put the images back as they were and resume, or train anew with those of "
            "now."
        )


def check_held_out(config: Mapping[str, Any], data: Any) -> None:
    """Refuse thresholds by images that the model of ``config``, a checkpoint's, was trained on.

    Raises:
        VaexError: when some are held out.
    """
    change = _change(config, data)
    if change is not None and change.held_out:
        raise VaexError(
            f"Thresholds would be too low: {change.told()}. Train anew, put the images back as they were, or name "
            "images that it has not seen: in a table with the split val (data.manifest), or in another folder "
            "(data.normal_dir)."
        )


def tested_again(config: Mapping[str, Any], data: Any, held_out: bool) -> str | None:
    """Return in a sentence that the model of ``config`` was trained on images of the test of ``data``, where it was.

    With ``held_out`` the test is of the images held out.
    """
    change = _change(config, data)
    if change is None or not (change.held_out if held_out else change.tested):
        return None
    what, split, place = "this test", "test", "a folder of their own (data.normal_test_dir)"
    if held_out:
        what, split, place = "these held-out images", "val", "another folder (data.normal_dir)"
    return (
        f"The numbers of {what} are too good: {change.told()}. Train anew, put the images back as they were, or "
        f"name images that it has not seen: in a table with the split {split} (data.manifest), or in {place}."
    )
