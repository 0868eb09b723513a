"""Calling a function with options out of a config: names and plain types checked against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from vaex.errors import VaexError, nearest

KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "text"),
    "bool": (bool, "true or false"),
}
"""Annotations that `call_checked` compares values with, and their names in words."""


def call_checked(kind: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Call ``function(**options)`` with names and plain types checked against its signature.

    Raises:
        VaexError: for options that are no mapping, an unknown one (the nearest valid name is told), a missing one, or a
            value of another type.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind in kinds}
    if not isinstance(options, Mapping):
        raise VaexError(f"{kind} must be a mapping of options ({', '.join(parameters) or 'none'}), got {options!r}.")
    for key in options:
        if key not in parameters:
            close = nearest(key, parameters)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise VaexError(f"{kind} has no option '{key}': {hint}it takes {', '.join(parameters) or 'none'}.")
        expected, words = KINDS.get(str(parameters[key].annotation), (object, ""))
        value = options[key]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected in (Integral, Real)):
            raise VaexError(f"{kind} needs {words} for the option '{key}', got {value!r}.")
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in options]
    if missing:
        raise VaexError(f"{kind} needs the option '{missing[0]}', which is not given.")
    return function(**options)
