"""Hyper-parameters as plain values, which checkpoints are read back with ``weights_only``."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from vaex.errors import VaexError


def plain(value: Any) -> Any:
    """Return ``value`` with mappings as dicts and sequences as lists, all the way down, as checkpoints need it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListConfig":
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    # Of a subclass such as np.float64 or an enum the plain value: `weights_only` reads no others
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    raise VaexError(f"A config holds plain values only (text, numbers, lists, mappings), got {type(value).__name__}.")
