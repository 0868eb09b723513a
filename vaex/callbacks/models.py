"""Which model of a LightningModule a callback looks at."""

from __future__ import annotations

from operator import attrgetter

import lightning.pytorch as pl
from torch import nn

from vaex.errors import VaexError, unknown


def model_at(pl_module: pl.LightningModule, path: str) -> nn.Module:
    """Return the module at the attribute ``path`` of the LightningModule, "" for itself.

    Raises:
        VaexError: when there is none; the modules that there are are listed.
    """
    if not path:
        return pl_module
    try:
        found = attrgetter(path)(pl_module)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Module):
        children = [name for name, _ in pl_module.named_children()]
        raise unknown(f"module to explain in {type(pl_module).__name__}", path, children)
    return found


def check_options(options: dict[str, object], own: list[str], valid: tuple[str, ...], callback: str) -> None:
    """Refuse options that are none of ``valid``; ``own`` are those that the callback has besides.

    Raises:
        VaexError: naming the nearest one.
    """
    for name in options:
        if name not in valid:
            raise unknown(f"option of the {callback} callback", name, [*own, *valid])


def check_counts(callback: str, **counts: int) -> None:
    """Refuse counts that are no whole numbers of 1 or more.

    Raises:
        VaexError: naming the option.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise VaexError(f"The {callback} callback needs {name} of at least 1, got {value!r}.")
