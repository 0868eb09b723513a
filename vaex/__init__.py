"""vaex trains variational autoencoders and shows why each latent fires.

Everything is imported on first use, so that ``import vaex`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaex import attention, callbacks, data, metrics, modules
    from vaex.build import load
    from vaex.explanation import explain

__version__ = "0.1.0"
__all__ = ["attention", "callbacks", "data", "explain", "load", "metrics", "modules"]

_HOMES = {"load": "vaex.build", "explain": "vaex.explanation"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"vaex.{name}")
    raise AttributeError(f"module 'vaex' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
