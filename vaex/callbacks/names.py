"""The names that the attention callback is given, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vaex.attention.checks import whole_numbers
from vaex.attention.methods import method_named, rectifier_named
from vaex.attention.targets import target_named
from vaex.errors import unknown


def check_attention_options(options: Mapping[str, Any], own: Sequence[str], passed_on: Sequence[str]) -> None:
    """Check ``options`` of `latent_attention`; ``own`` are those of the callback itself.

    Raises:
        VaexError: for one that is in neither list, or an unknown method, target or rectifier.
    """
    for name in options:
        if name not in passed_on:
            raise unknown("option of the attention callback", name, [*own, *passed_on])
    if options.get("latents") is not None:
        whole_numbers("latents", options["latents"])
    for option, check in (("method", method_named), ("target", target_named), ("rectify", rectifier_named)):
        if option in options:
            check(options[option])
