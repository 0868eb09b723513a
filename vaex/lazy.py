"""Package exports that are imported on first use, so that a command pays only for what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, str | None]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for ``package``; ``homes`` maps a name to its module, None to a submodule.

    Source: PEP 562.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home = homes[name]
        return (
            importlib.import_module(f"{package}.{name}")
            if home is None
            else getattr(importlib.import_module(home), name)
        )

    return get, lambda: sorted(homes)
