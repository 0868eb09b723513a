"""The peers' algorithms are the same maps by other ways: each against Eq. 3 of the paper by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.benchmarks.peers import PEERS, _resized, captum_loop, floor_forward
from vaex.build import build_model
from vaex.networks import VAE


@pytest.fixture(scope="module")
def vae() -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def _by_shifts(vae: VAE, images: Tensor, step: float = 1e-6) -> Tensor:
    """ReLU(sum_k alpha_k A_k) of ``conv2``, alpha_k by shifting the whole channel k a little both ways, in float64."""
    encoder = vae.double().encoder
    chain = dict(encoder.named_children())
    with torch.no_grad():
        activation = chain["conv2"](chain["relu1"](chain["conv1"](images.double())))

        def mean(moved: Tensor) -> Tensor:
            hidden = chain["fc1"](chain["flatten"](chain["relu2"](moved)))
            code: Tensor = encoder.mean(chain["relu3"](hidden))
            return code

        total = torch.zeros(len(images), 3, *activation.shape[2:], dtype=torch.float64)
        for k in range(activation.shape[1]):
            shift = torch.zeros_like(activation)
            shift[:, k] = step
            slope = (mean(activation + shift) - mean(activation - shift)) / (2 * step)  # (B, D): sum over cells
            alpha = slope / (activation.shape[2] * activation.shape[3])
            total += alpha[:, :, None, None] * activation[:, k : k + 1]
    vae.float()
    return F.interpolate(total.relu(), size=(32, 32), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", PEERS)
def test_maps(name: str, vae: VAE, images: Tensor) -> None:
    if PEERS[name] is captum_loop:
        pytest.importorskip("captum")
    expected = _by_shifts(vae, images)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    found = PEERS[name](vae.eval(), images, "conv2")
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.max())
    assert not found.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in vae.modules())
    assert all(weight.grad is None for weight in vae.parameters())


def test_floor_has_no_graph(vae: VAE, images: Tensor) -> None:
    code = floor_forward(vae, images)
    assert code.shape == (2, 3)
    assert not code.requires_grad


@pytest.mark.parametrize(("rows", "columns", "size"), [(4, 4, (64, 64)), (7, 5, (28, 30)), (3, 2, (3, 9))])
def test_numpy_resizing_is_torchs(rows: int, columns: int, size: tuple[int, int]) -> None:
    cam = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(cam)[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(_resized(cam, size), expected.numpy(), atol=1e-6)
