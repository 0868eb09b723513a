"""How activations A and gradients g = dS/dA become a map: weights, combination and rectification, side by side.

| method | weight of A_k | combination | reads |
|---|---|---|---|
| grad_cam | mean of g_k | sum_k w_k A_k | layer |
| hires_cam | g_k, cell by cell | sum_k w_k A_k | layer |
| layer_cam | ReLU(g_k), cell by cell | sum_k w_k A_k | layer |
| xgrad_cam | sum g_k A_k / sum A_k | sum_k w_k A_k | layer |
| grad_cam_plus_plus | sum a ReLU(g_k) | sum_k w_k A_k | layer |
| activation | - | root of the mean over k of A_k^2 (a control) | layer |
| score_cam | change of the target when A_k masks the image | sum_k w_k A_k | layer and image |
| gradient | - | sum_c dS/dx_c | image |
| smooth_gradient | - | mean over noisy images of sum_c dS/dx_c | image |
| integrated_gradients | x - x' | sum_c w_c times the mean gradient from x' to x | image |

Rectification (`RECTIFIERS`) follows. A method of the layer is a function of A (B, K, h, w) and g (t, B, K, h, w) that
returns unrectified maps (t, B, h, w); put a new one into `METHODS`. Those that look at the image again are in
`vaex.attention.image_methods`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vaex.attention.checks import check_instance
from vaex.attention.image_methods import IMAGE_METHODS, ImageMethod
from vaex.checked import call_checked
from vaex.errors import VaexError, unknown

LayerMethod = Callable[[Tensor, Tensor], Tensor]


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


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel by its positive gradients, each scaled by a = g^2 / (2 g^2 + g^3 sum A).

    The scale is derived for the exponential of a class score, which a latent is not: for a latent the weights are a
    heuristic, and cells where the denominator vanishes weigh 0. Use it to compare, not to argue.

    Source: Chattopadhay et al., WACV 2018, Eq. 19.
    """
    square = gradient.square()
    denominator = 2 * square + square * gradient * activation.sum((-2, -1), keepdim=True)
    scale = square / torch.where(denominator == 0, 1.0, denominator)
    return torch.einsum("tbk,bkhw->tbhw", (scale * gradient.relu()).sum((-2, -1)), activation)


def channel_rms(activation: Tensor) -> Tensor:
    """Return the root mean square over channels of an activation (B, K, h, w) at each cell, (B, h, w)."""
    # vector_norm has a finite slope (0) where all channels are 0, and sums half precision in single
    length: Tensor = torch.linalg.vector_norm(activation, dim=1)
    return length / math.sqrt(activation.shape[1])


def activation_length(activation: Tensor, gradient: Tensor) -> Tensor:
    """Read the layer directly: `channel_rms`, the same map for every target and no gradient in it.

    It explains no target. It is the control of the other methods: what their maps owe to the layer alone.
    """
    return channel_rms(activation).expand(len(gradient), -1, -1, -1)


METHODS: dict[str, LayerMethod] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "activation": activation_length,
}
"""Methods of the layer by name."""

ROOT_EPS = 1e-8
"""Keeps the slope of `signed_root` finite at 0."""


def signed_root(maps: Tensor) -> Tensor:
    """Return sign(m) sqrt|m|, which makes a squared distance a distance, with a finite slope at 0."""
    return maps * (maps.abs() + ROOT_EPS).rsqrt()


def one_minus_sigmoid(maps: Tensor) -> Tensor:
    """Return 1 - sigmoid(m) in [0, 1]: what the attention leaves out, squashed cell by cell."""
    return torch.sigmoid(-maps)


def one_minus_min_max(maps: Tensor) -> Tensor:
    """Return 1 - (m - min) / (max - min) in [0, 1] over the cells of each map (..., h, w), 0 for a flat one."""
    highest, lowest = maps.amax((-2, -1), keepdim=True), maps.amin((-2, -1), keepdim=True)
    return (highest - maps) / torch.where(highest == lowest, 1.0, highest - lowest)


RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,  # the paper
    "abs": torch.abs,  # the official code
    "none": lambda maps: maps,  # signed
    "root": signed_root,
    "one_minus_sigmoid": one_minus_sigmoid,  # CAVGA's anomaly map
    "one_minus_min_max": one_minus_min_max,
}


def method_named(method: str | Mapping[str, Any] | LayerMethod | ImageMethod) -> LayerMethod | ImageMethod:
    """Return a method by its name, by a mapping of name and parameters, or as it is."""
    check_instance("method", method)
    if isinstance(method, ImageMethod) or callable(method):
        return method
    options = dict(method) if isinstance(method, Mapping) else {"name": method}
    name = options.pop("name", None)
    if isinstance(name, str) and name in IMAGE_METHODS:
        found: ImageMethod = call_checked(f"attention method '{name}'", IMAGE_METHODS[name], options)
        return found
    if not isinstance(name, str) or name not in METHODS:
        raise unknown("attention method", str(name), [*METHODS, *IMAGE_METHODS])
    if options:
        raise VaexError(f"attention method '{name}' takes no options, got {', '.join(options)}.")
    return METHODS[name]


def rectifier_named(name: str) -> Callable[[Tensor], Tensor]:
    """Return the rectification ``name``; an unknown one is answered with the nearest."""
    if not isinstance(name, str) or name not in RECTIFIERS:
        raise unknown("rectification", str(name), RECTIFIERS)
    return RECTIFIERS[name]
