"""How weights start."""

from __future__ import annotations

from torch import nn

from vaex.errors import unknown

STARTS = ("torch", "normal")


def started(module: nn.Module, init: str) -> None:
    """Draw the weights of ``module`` anew by the rule ``init``, in place.

    ``torch`` leaves torch's own; ``normal`` draws linear layers and convolutions from N(0, 0.02^2) with biases of 0 and
    leaves transposed convolutions as they are.

    Source: normal, 1Konny/FactorVAE, which other reproductions of FactorVAE share; the paper does not tell its own.

    Raises:
        VaexError: for an unknown rule.
    """
    if init not in STARTS:
        raise unknown("start of weights (init)", init, STARTS)
    if init == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not layer.weight.is_meta:
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
