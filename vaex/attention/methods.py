"""How activations A and gradients g = dS/dA become a map: weights and combination, side by side.

Every method takes A (B, K, h, w) and g (t, B, K, h, w) and returns unrectified maps (t, B, h, w).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaex.errors import unknown


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel by its spatially averaged gradient, sum over channels.

    The weights are zero where each channel is normalised behind the layer (instance norm, a group norm with a group per
    channel): what follows does not see a channel's mean. Read the map behind the normalisation.

    Source: Selvaraju et al., ICCV 2017; for latents Liu et al., CVPR 2020, Eq. 1-3.
    """
    return torch.einsum("tbk,bkhw->tbhw", gradient.mean((-2, -1)), activation)


def hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Sum gradient times activation over channels; with a linear head the map sums to the target up to its bias.

    Source: Draelos & Carin, arXiv 2011.08891.
    """
    return torch.einsum("tbkhw,bkhw->tbhw", gradient, activation)


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Like `hires_cam` with positive gradients only: evidence that raises the target.

    Source: Jiang et al., IEEE TIP 2021.
    """
    return torch.einsum("tbkhw,bkhw->tbhw", gradient.relu(), activation)


def xgrad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel by its gradients averaged with the activation as weight; unstable where A sums to 0.

    Source: Fu et al., BMVC 2020.
    """
    total = activation.sum((-2, -1))
    total = torch.where(total == 0, 1.0, total)  # a dead channel weighs 0
    weights = torch.einsum("tbkhw,bkhw->tbk", gradient, activation) / total
    return torch.einsum("tbk,bkhw->tbhw", weights, activation)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
}

RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,  # the paper
    "abs": torch.abs,  # the official code
    "none": lambda maps: maps,  # signed
}


def method_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the method ``name``; an unknown one is answered with the nearest."""
    if not isinstance(name, str) or name not in METHODS:
        raise unknown("attention method", str(name), METHODS)
    return METHODS[name]


def rectifier_named(name: str) -> Callable[[Tensor], Tensor]:
    """Return the rectification ``name``; an unknown one is answered with the nearest."""
    if not isinstance(name, str) or name not in RECTIFIERS:
        raise unknown("rectification", str(name), RECTIFIERS)
    return RECTIFIERS[name]
