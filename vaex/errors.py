"""The one error that vaex raises on bad input, and the search for the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VaexError(Exception):
    """Bad input, told in one sentence that names the thing, what was expected and what to do."""


class AbsentDataError(VaexError):
    """A known data set that is not on this machine, while others like it are."""


def nearest(name: str, valid: Iterable[str], count: int = 1) -> list[str]:
    """Return up to ``count`` names of ``valid`` that resemble ``name``, best first."""
    return difflib.get_close_matches(str(name), [str(v) for v in valid], n=count, cutoff=0.5)


def unknown(kind: str, name: str, valid: Iterable[str]) -> VaexError:
    """Return the error for a name that is not among ``valid``, with the nearest one and the whole list."""
    names = sorted(str(v) for v in valid)
    close = nearest(name, names)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return VaexError(f"Unknown {kind} '{name}': {hint}valid names are {', '.join(names)}.")
