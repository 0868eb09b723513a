"""Values of keys that more than one kind of measurement takes, checked."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from vaex.commands.sources import at_least_one
from vaex.errors import VaexError


def names_option(value: Any, key: str) -> list[str] | None:
    """Return the names of a list option such as ``cases=[mnist_conv2]``; one name counts as a list, null as None.

    Raises:
        VaexError: when it is empty or holds anything but text.
    """
    if value is None:
        return None
    names = [value] if isinstance(value, str) else OmegaConf.to_container(value) if OmegaConf.is_list(value) else []
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise VaexError(f"{key} must be a list of names such as {key}=[NAME,NAME], or null, got '{value}'.")
    return [str(name) for name in names]


def methods_option(value: Any) -> list[str | dict[str, Any]] | None:
    """Return the entries of ``methods``, names or mappings of name and parameters; one counts as a list, null as None.

    Raises:
        VaexError: when it is empty or holds anything else.
    """
    if not (OmegaConf.is_list(value) and any(OmegaConf.is_dict(entry) for entry in value)):
        return names_option(value, "methods")  # type: ignore[return-value]
    entries: Any = OmegaConf.to_container(value)
    if not all(isinstance(entry, str | dict) for entry in entries):
        raise VaexError(f"methods must be a list of names or of {{name: NAME, PARAMETER: VALUE}}, got '{value}'.")
    return list(entries)


def images_option(value: Any, default: int) -> int:
    """Return how many ``images`` are measured; null stands for ``default``.

    ``images`` is a path in other commands, so its value comes quoted.

    Raises:
        VaexError: when it is no whole number of at least 1.
    """
    count = default if value is None else int(value) if str(value).isdecimal() else value
    return at_least_one(count, "images")


def positive(value: Any, key: str) -> float:
    """Return ``value``.

    Raises:
        VaexError: when it is no number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise VaexError(f"{key} must be a number above 0, got {value}.")
    return float(value)


def check_time(value: Any, key: str) -> None:
    """Check a time that Lightning's Timer reads; null stands for none.

    Raises:
        VaexError: when it reads none.
    """
    from lightning.pytorch.callbacks import Timer
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        Timer(value)
        valid = value is None or isinstance(value, str | dict)  # a number would fail later
    except (AttributeError, OverflowError, TypeError, ValueError, MisconfigurationException):
        valid = False
    if not valid:
        raise VaexError(f"{key} must be a time as days:hours:minutes:seconds, such as 00:08:00:00, got {value!r}.")
