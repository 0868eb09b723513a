"""The maps of all latents as others compute them: the plain loop, captum, and two peers' algorithms rewritten.

Every function takes a VAE in evaluation mode, images (B, C, H, W) and the name of a layer, and returns Grad-CAM maps of
the posterior means, rectified, at the size of the image: (B, D, H, W). Scalings to a largest value of 1, which the
peers apply for display, are left out, so that maps compare.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.errors import VaexError
from vaex.networks import VAE

Floats = NDArray[np.float32]


def _upsampled(maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)


def floor_forward(vae: VAE, images: Tensor) -> Tensor:
    """Encode without a graph: what no map can cost less than; returns the means (B, D)."""
    with torch.no_grad():
        return vae.encode(images).mean


def plain_loop(vae: VAE, images: Tensor, layer: str) -> Tensor:
    """Differentiate one latent after the other, the layer being the leaf, so that nothing before it is visited."""
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        torch.set_grad_enabled(True)
        leaves.append(output.detach().requires_grad_())
        return leaves[0].clone()

    handle = vae.encoder.get_submodule(layer).register_forward_hook(cut)
    try:
        with torch.no_grad():
            mean = vae.encode(images).mean
            activation, maps = leaves[0], []
            for latent in range(mean.shape[1]):
                (gradient,) = torch.autograd.grad(mean[:, latent].sum(), activation, retain_graph=True)
                weights = gradient.mean((2, 3), keepdim=True)
                maps.append((weights * activation.detach()).sum(1).relu())
    finally:
        handle.remove()
    with torch.no_grad():
        return _upsampled(torch.stack(maps, 1), images)


class MeanEncoder(nn.Module):
    """The encoder as a network with D outputs, the form in which tools for classifiers take it."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return the means (B, D)."""
        mean: Tensor = self.encoder(images).mean
        return mean


def captum_loop(vae: VAE, images: Tensor, layer: str) -> Tensor:
    """LayerGradCam of captum, one call per latent.

    Raises:
        VaexError: when captum is not installed.
    """
    try:
        attribution = importlib.import_module("captum.attr")
    except ImportError as error:
        raise VaexError("captum is not installed, so it is not measured; pip install captum.") from error
    tool = attribution.LayerGradCam(MeanEncoder(vae), vae.encoder.get_submodule(layer))
    maps = [tool.attribute(images, target=latent, relu_attributions=True) for latent in range(vae.latents)]
    return _upsampled(torch.cat(maps, 1).detach(), images)


def pytorch_grad_cam_rewritten(vae: VAE, images: Tensor, layer: str) -> Tensor:
    """pytorch-grad-cam's algorithm, rewritten.

    For every target one full forward pass with a hook that keeps activation and gradient, a backward pass of the whole
    network with the gradients of its parameters, and the sum over channels and the resizing with numpy, image by image.
    """
    network = MeanEncoder(vae)
    maps = []
    for latent in range(vae.latents):
        activations: list[Tensor] = []
        gradients: list[Tensor] = []

        def keep(
            module: nn.Module,  # noqa: ARG001
            inputs: Any,  # noqa: ARG001
            output: Tensor,
            activations: list[Tensor] = activations,
            gradients: list[Tensor] = gradients,
        ) -> None:
            activations.append(output.detach().cpu())
            output.register_hook(lambda gradient: gradients.append(gradient.detach().cpu()))

        handle = vae.encoder.get_submodule(layer).register_forward_hook(keep)
        try:
            with torch.enable_grad():
                outputs = network(images.detach().clone().requires_grad_())
                network.zero_grad()
                torch.stack([row[latent] for row in outputs]).sum().backward(retain_graph=True)
        finally:
            handle.remove()
        weights = gradients[0].numpy().mean((2, 3))
        cams = np.maximum((weights[:, :, None, None] * activations[0].numpy()).sum(1), 0)
        maps.append(np.stack([_resized(cam, (images.shape[-2], images.shape[-1])) for cam in cams]))
    network.zero_grad()
    return torch.from_numpy(np.stack(maps, 1)).to(images.device)


def _resized(cam: Floats, size: tuple[int, int]) -> Floats:
    """Bilinear with half-pixel centres and repeated borders."""
    for axis, pixels in enumerate(size):
        cells = cam.shape[axis]
        place = np.clip((np.arange(pixels, dtype=np.float32) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        low = np.floor(place).astype(np.int64)
        part = (place - low).reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float32)
        cam = cam.take(low, axis) * (1 - part) + cam.take(np.minimum(low + 1, cells - 1), axis) * part
    return cam


def official_rewritten(vae: VAE, images: Tensor, layer: str) -> Tensor:
    """The official expVAE algorithm, looped over the latents, rewritten.

    Hooks on every module keep all outputs and copy all gradients to the CPU, the whole VAE runs twice, and each latent
    is sent backward through the whole encoder with the graph retained.
    """
    outputs: dict[nn.Module, Tensor] = {}
    gradients: dict[nn.Module, Tensor] = {}

    def keep_output(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        if isinstance(output, Tensor):
            outputs[module] = output.detach()

    def keep_gradient(module: nn.Module, inputs: Any, output: tuple[Tensor | None, ...]) -> None:  # noqa: ARG001
        if output[0] is not None:
            gradients[module] = output[0].cpu()

    with ExitStack() as stack, torch.enable_grad():
        for module in vae.modules():
            stack.callback(module.register_forward_hook(keep_output).remove)
            stack.callback(module.register_full_backward_hook(keep_gradient).remove)
        given = images.detach().clone().requires_grad_()
        vae(given)
        mean = vae(given).posterior.mean
        target = vae.encoder.get_submodule(layer)
        maps = []
        for latent in range(mean.shape[1]):
            vae.zero_grad()
            mean[:, latent].sum().backward(retain_graph=True)
            activation, weights = outputs[target], F.adaptive_avg_pool2d(gradients[target].to(images.device), 1)
            joined = activation.reshape(1, -1, *activation.shape[2:])  # (1, B K, h, w): one group per image
            cam = F.conv2d(joined, weights, groups=len(images)).transpose(0, 1)
            maps.append(F.interpolate(cam.relu(), images.shape[-2:], mode="bilinear", align_corners=False))
        vae.zero_grad()
    return torch.cat(maps, 1).detach()


MapMaker = Callable[[VAE, Tensor, str], Tensor]

PEERS: dict[str, MapMaker] = {
    "plain loop": plain_loop,
    "captum LayerGradCam, looped": captum_loop,
    "pytorch-grad-cam's algorithm, rewritten": pytorch_grad_cam_rewritten,
    "official expVAE's algorithm, looped, rewritten": official_rewritten,
}
"""What vaex is compared with, by the name in the table."""
