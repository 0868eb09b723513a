"""From an activation and the targets behind it to maps, and maps to another size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention.checks import check_chunk
from vaex.attention.folds import channel_weights
from vaex.attention.gradients import summable, target_gradients
from vaex.attention.image_methods import ImageMethod
from vaex.attention.methods import METHODS, LayerMethod, grad_cam, method_named, rectifier_named
from vaex.errors import VaexError


def attention_maps(
    activation: Tensor,
    targets: Tensor,
    method: str | LayerMethod = "grad_cam",
    rectify: str = "relu",
    chunk: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Return the maps of ``targets`` (B, T) over the cells of ``activation`` (B, K, h, w): (B, T, h, w).

    For losses: the activation comes from ``vae(x, keep=(layer,)).activations`` and ``create_graph=True`` keeps the
    second-order gradient; without it the maps carry no graph and are fp32 at least. The way follows from a cost rule:
    Grad-CAM through `channel_weights` where that is exact and pays, else ``chunk`` targets per backward pass
    (None: as many as `targets_per_pass` allows). With a ``chunk`` the general way is taken.

    Raises:
        VaexError: for an unknown method or rectification, one that reads the image or returns another shape, or targets
            without a gradient path.
    """
    check_chunk(chunk)
    combine, rectifier = method_named(method), rectifier_named(rectify)
    if isinstance(combine, ImageMethod):
        raise VaexError(f"'{method}' looks at the image again, so it needs the model: call latent_attention.")
    weighed = activation if create_graph else summable(activation.detach())
    if combine is grad_cam and chunk is None:
        weights = channel_weights(targets, activation, create_graph)
        if weights is not None:
            weights = (weights if create_graph else summable(weights)).transpose(0, 1)
            return rectifier(torch.bmm(weights, weighed.flatten(2)).unflatten(2, weighed.shape[2:]))
    with torch.enable_grad():  # the targets are taken apart within their graph, wherever this is called
        parts = [
            rectifier(_combined(combine, weighed, gradient if create_graph else summable(gradient))).transpose(0, 1)
            for gradient in target_gradients(targets, activation, chunk, create_graph)
        ]
    return torch.cat(parts, dim=1)


def _combined(combine: LayerMethod, activation: Tensor, gradient: Tensor) -> Tensor:
    """Return ``combine(activation, gradient)``, (t, B, h, w), with the shape of a method from elsewhere checked."""
    if combine in METHODS.values():
        return combine(activation, gradient)
    count, batch = gradient.shape[:2]
    # With as many targets as images, maps that come in the wrong order have the right shape: then not all at once
    blocks = gradient.split([count - 1, 1]) if count == batch > 1 else [gradient]
    parts = []
    for block in blocks:
        maps: Any = combine(activation, block)
        expected = (len(block), batch, *activation.shape[2:])
        if not isinstance(maps, Tensor) or tuple(maps.shape) != expected:
            came = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise VaexError(
                f"A method must return maps (t, B, h, w) = {expected} for an activation {tuple(activation.shape)} and "
                f"gradients {tuple(block.shape)}, got {came}."
            )
        parts.append(maps)
    return torch.cat(parts)


def resize_maps(maps: Tensor, size: str | Sequence[int], image_size: tuple[int, int]) -> Tensor:
    """Bring maps (B, T, h, w) to ``size``: "input" (bilinear), "layer" (as they are) or a pair of pixels."""
    if size == "layer":
        return maps
    height, width = image_size if size == "input" else [int(side) for side in size]
    # Bilinear interpolation is a matrix product for each axis, several times faster than the general kernel
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = _interpolation(maps.shape[-2], height, maps), _interpolation(maps.shape[-1], width, maps)
        return torch.matmul(rows, torch.matmul(maps, columns.T))


def _interpolation(cells: int, pixels: int, like: Tensor) -> Tensor:
    """Return the matrix (pixels, cells) of linear interpolation with half-pixel centres."""
    eye = torch.eye(cells, dtype=torch.float64)[None]
    matrix = F.interpolate(eye, size=pixels, mode="linear", align_corners=False)[0].T
    return matrix.to(like)
