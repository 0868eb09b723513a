"""What `vaex bench what=attention` measures: networks, layers, batches, and the ratios that are to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vaex.errors import unknown

VAEX = "vaex"
ALL_PAIRS, RANDOM_PAIR = "attention term, all pairs", "attention term, a random pair"


@dataclass(frozen=True)
class Case:
    """A network, a batch and a layer; ``goals`` are the largest ratios to the floor, by contestant."""

    title: str
    network: Mapping[str, Any]
    layer: str
    batch: int
    goals: Mapping[str, float] = field(default_factory=dict)
    training: bool = False
    """True compares training steps with and without the attention term, false compares ways to all maps."""


_MNIST: dict[str, Any] = {"name": "mnist", "shape": [1, 28, 28], "latents": 32}
_FACTOR: dict[str, Any] = {"name": "factor_vae", "shape": [1, 64, 64], "latents": 10}
_RESNET: dict[str, Any] = {"name": "resnet18", "shape": [3, 256, 256], "latents": 32}

CASES: dict[str, Case] = {
    "mnist_conv2": Case("MNIST network, 32 latents, batch 64, conv2", _MNIST, "conv2", 64, {VAEX: 2.7}),
    "dsprites_conv4": Case("FactorVAE network, 10 latents, batch 64, conv4", _FACTOR, "conv4", 64, {VAEX: 2.0}),
    "dsprites_conv1": Case("FactorVAE network, 10 latents, batch 64, conv1", _FACTOR, "conv1", 64, {VAEX: 10.0}),
    "resnet18_layer4": Case("ResNet-18 at 256, 32 latents, batch 8, layer4", _RESNET, "layer4", 8, {VAEX: 1.1}),
    "resnet18_layer3": Case("ResNet-18 at 256, 32 latents, batch 8, layer3", _RESNET, "layer3", 8, {VAEX: 7.0}),
    "resnet18_layer2": Case("ResNet-18 at 256, 32 latents, batch 8, layer2", _RESNET, "layer2", 8, {VAEX: 14.0}),
    "ad_loss_conv4": Case(
        "Training step of the FactorVAE network, batch 64, maps of conv4", _FACTOR, "conv4", 64, {ALL_PAIRS: 1.05}, True
    ),
    "ad_loss_conv1": Case(
        "Training step of the FactorVAE network, batch 64, maps of conv1",
        _FACTOR,
        "conv1",
        64,
        {ALL_PAIRS: 4.2, RANDOM_PAIR: 1.6},
        True,
    ),
}


def chosen_cases(names: Sequence[str] | None) -> dict[str, Case]:
    """Return the cases ``names`` in their order, all for None.

    Raises:
        VaexError: for an unknown name.
    """
    for name in names or ():
        if name not in CASES:
            raise unknown("case of vaex bench what=attention", str(name), CASES)
    return dict(CASES) if names is None else {name: CASES[name] for name in names}
