"""Networks of every kind in evaluation mode, and the map of one latent of one image by the letter of the paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.build import build_model
from vaex.networks import VAE
from vaex.types import Posterior

Values = Callable[[Tensor, Tensor], Tensor]  # mean (1, D), logvar (1, D) -> targets (1, T)
Combine = Callable[[Tensor, Tensor], Tensor]  # activation (K, h, w), gradient (K, h, w) -> map (h, w)

NETWORKS: dict[str, dict[str, Any]] = {
    "mnist": {"name": "mnist", "shape": [1, 28, 28], "latents": 5},
    "factor_vae": {"name": "factor_vae", "shape": [3, 64, 64], "latents": 4},
    "conv": {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8},
    "conv_batch": {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "norm": "batch"},
    "conv_group": {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "norm": "group"},
}


@pytest.fixture
def vae() -> Callable[[str], VAE]:
    """Build a VAE by its name in NETWORKS, in evaluation mode, batch-norm with statistics that are not trivial."""

    def build(name: str) -> VAE:
        torch.manual_seed(7)
        model = build_model(NETWORKS[name])
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return model.eval()

    return build


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Draw images (B, C, H, W) in [0, 1] that suit a network, of smooth shapes rather than noise."""

    def draw(name: str, count: int = 4, seed: int = 0) -> Tensor:
        channels, height, width = NETWORKS[name]["shape"]
        coarse = torch.rand(count, channels, 7, 7, generator=torch.Generator().manual_seed(seed))
        return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)

    return draw


@pytest.fixture
def gradient_of() -> Callable[..., list[tuple[Tensor, list[Tensor]]]]:
    """For each image alone: the layer's activation and one gradient per target, without any hook of vaex."""

    def compute(model: VAE, images: Tensor, layer: str, values: Values) -> list[tuple[Tensor, list[Tensor]]]:
        found = []
        names = list(model.encoder.chain)
        position = names.index(layer) + 1
        for image in images:
            hidden = image[None]
            with torch.no_grad():
                for name in names[:position]:
                    hidden = model.encoder.get_submodule(name)(hidden)
            activation = hidden.clone().requires_grad_()
            hidden = activation * 1
            for name in names[position:]:
                hidden = model.encoder.get_submodule(name)(hidden)
            posterior = Posterior(model.encoder.mean(hidden), model.encoder.logvar(hidden))
            targets = values(*posterior)[0]
            gradients = [torch.autograd.grad(target, activation, retain_graph=True)[0][0] for target in targets]
            found.append((activation.detach()[0], gradients))
        return found

    return compute


@pytest.fixture
def grad_cam_loop() -> Combine:
    """Eq. 1-3 with loops: alpha_k is the mean of the gradient over the cells, the map their weighted sum."""

    def combine(activation: Tensor, gradient: Tensor) -> Tensor:
        channels, height, width = activation.shape
        result = torch.zeros_like(activation[0])
        for k in range(channels):
            alpha = gradient[k].sum() / (height * width)
            result += alpha * activation[k]
        return result

    return combine
