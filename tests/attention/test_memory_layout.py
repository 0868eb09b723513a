"""Layouts of memory that torch chooses, channels_last and others, change no map; each against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import latent_attention


def by_hand(front: nn.Module, rest: nn.Module, images: Tensor) -> Tensor:
    """Return unrectified Grad-CAM (B, D, h, w) of what ``rest`` makes of ``front``'s output, one latent at a time."""
    activation = front(images).detach().requires_grad_()
    mean = rest(activation.clone())
    maps = []
    for latent in range(mean.shape[1]):
        (gradient,) = torch.autograd.grad(mean[:, latent].sum(), activation, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * activation.detach()).sum(1))
    return torch.stack(maps, 1)


def normalised(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what ``norm`` computes in evaluation mode, as a convolution."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    plain = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features).to(scale.dtype)
    plain.weight.data[:, 0, 0, 0], plain.bias.data = scale, norm.bias.detach() - norm.running_mean * scale  # type: ignore[union-attr]
    return plain


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_norm_behind_the_layer(count: int, chunk: int | None, channels_last: bool) -> None:
    """Of one image torch's batch-norm returns wrong gradients when what it gets is laid out in channels_last."""
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.LogSigmoid())  # what follows it is contiguous
    norm = nn.BatchNorm2d(3)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    after: list[nn.Module] = [nn.ConvTranspose2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1), nn.GELU()]
    model = nn.Sequential(front, norm, *after, nn.Flatten(), nn.Linear(4 * 19 * 15, 5)).double().eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(count, 2, 9, 7, dtype=torch.float64)
    expected = by_hand(front, nn.Sequential(normalised(norm), *list(model)[2:]), images)
    maps = latent_attention(model, images, "0.1", rectify="none", size="layer", chunk=chunk)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)


def test_a_loss_on_the_maps_of_one_image_behind_batch_norm() -> None:
    """The loss sends the layer a gradient with strides of its own; the slope along a line is that of the values."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    head = nn.Sequential(nn.Conv2d(4, 3, 1), nn.GELU(), nn.Flatten(), nn.Linear(90, 2))
    model = nn.Sequential(nn.Conv2d(2, 4, 1, 2), norm, head).double().eval()
    images = torch.rand(1, 2, 12, 10, dtype=torch.float64)
    assert norm.bias is not None
    bias, step = norm.bias, torch.randn(4, dtype=torch.float64)

    def loss() -> Tensor:
        return (
            latent_attention(model, images, "1", method="hires_cam", rectify="none", create_graph=True).square().sum()
        )

    (slope,) = torch.autograd.grad(loss(), bias)
    values = []
    for distance in (1e-5, -2e-5):
        bias.data += distance * step
        values.append(float(loss().detach()))
    torch.testing.assert_close(float(slope @ step), (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_a_convolution_whose_fold_comes_out_in_channels_last(count: int) -> None:
    torch.manual_seed(0)
    front = nn.Conv2d(2, 3, 3, padding=1)
    rest = nn.Sequential(
        nn.ReLU(), nn.Conv2d(3, 3, 4, padding=2, dilation=2), nn.GELU(), nn.Flatten(), nn.Linear(240, 9)
    )
    model = nn.Sequential(front, rest).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(count, 2, 12, 10, dtype=torch.float64)
    maps = latent_attention(model, images, "0", rectify="none", size="layer")
    torch.testing.assert_close(maps, by_hand(front, rest, images), rtol=1e-9, atol=1e-12)
