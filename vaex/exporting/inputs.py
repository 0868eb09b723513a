"""What an exported file is given: images as they come, or codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention.isolation import undisturbed
from vaex.errors import VaexError
from vaex.networks import VAE

if TYPE_CHECKING:
    from vaex.exporting.parts import Request


def code_shape(model: VAE) -> tuple[int, ...]:
    """Return the shape of one code: (D,), or (D, h, w) of a latent grid."""
    if model.shape is None:
        return (model.latents,)
    with undisturbed(model, torch.zeros(1, *model.shape)) as image:
        return tuple(model.encode(image).mean.shape[1:])


def example_input(model: VAE, request: Request, count: int, seed: int = 0) -> Tensor:
    """Return random input for ``count`` images or codes, as the export takes it."""
    generator = torch.Generator().manual_seed(seed)
    if request.what == "decoder":
        return torch.randn(count, *code_shape(model), generator=generator)
    if model.shape is None:
        raise VaexError("The model does not say which images it takes; build it with its shape (vaex.load does).")
    channels, *model_size = model.shape
    height, width = request.image_size or model_size
    if request.pixels == "uint8":
        return torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)
    return torch.rand(count, channels, height, width, generator=generator)


def prepared(model: VAE, request: Request, images: Tensor) -> Tensor:
    """Return what the model takes, (B, C, H, W) in [0, 1], of what the export takes; codes stay as they are."""
    if request.what == "decoder":
        return images
    if request.pixels == "uint8":
        images = images.permute(0, 3, 1, 2).float() / 255
    if request.image_size is not None and model.shape is not None and request.image_size != model.shape[1:]:
        images = F.interpolate(images, size=model.shape[1:], mode="bilinear", align_corners=False)
    return images
