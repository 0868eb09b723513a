"""The maps of `latent_attention` against one backward pass per image and latent, and against the released code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.attention import METHODS, attention_maps, latent_attention
from vaex.errors import VaexError
from vaex.networks import VAE

CASES = [
    ("mnist", "conv2"),
    ("mnist", "conv1"),
    ("factor_vae", "conv3"),
    ("factor_vae", "relu2"),
    ("conv", "conv2"),
    ("conv", "conv3"),
    ("conv_batch", "norm2"),
    ("conv_group", "relu1"),
]

TARGETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda mean, logvar: mean,
    "logvar": lambda mean, logvar: logvar,
    "kl": lambda mean, logvar: 0.5 * (mean**2 + torch.exp(logvar) - logvar - 1),
    "sum": lambda mean, logvar: mean.sum(1, keepdim=True),
    "total_kl": lambda mean, logvar: 0.5 * (mean**2 + torch.exp(logvar) - logvar - 1).sum(1, keepdim=True),
}


def near(found: Tensor, expected: Tensor, relative: float = 1e-5) -> bool:
    """Whether two batches of maps agree to ``relative`` of each image's largest value, which is not zero."""
    scale = expected.abs().flatten(1).amax(1)
    assert bool((scale > 0).all()), "an empty map proves nothing"
    return bool(((found - expected).abs().flatten(1).amax(1) <= relative * scale).all())


@pytest.fixture
def expected_maps(gradient_of: Any, grad_cam_loop: Any) -> Callable[..., Tensor]:
    def compute(model: VAE, images: Tensor, layer: str, target: str, rectify: str) -> Tensor:
        maps = []
        for activation, gradients in gradient_of(model, images, layer, TARGETS[target]):
            raw = [grad_cam_loop(activation, gradient) for gradient in gradients]
            small = torch.stack([one.clamp(min=0) if rectify == "relu" else one for one in raw])
            large = F.interpolate(small[None], size=images.shape[-2:], mode="bilinear", align_corners=False)[0]
            maps.append(large.abs() if rectify == "abs" else large)  # as released: after the resizing
        return torch.stack(maps)

    return compute


@pytest.mark.parametrize(("network", "layer"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_maps_are_those_of_the_paper(
    network: str, layer: str, target: str, vae: Any, images: Any, expected_maps: Any
) -> None:
    model, x = vae(network), images(network)
    scale = float(expected_maps(model, x, layer, target, "abs").amax())
    assert scale > 0
    for rectify in ("none", "abs", "relu"):
        expected = expected_maps(model, x, layer, target, rectify)
        found = latent_attention(model, x, layer, target=target, rectify=rectify)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def test_the_encoder_alone_gives_the_same_maps(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    expected = latent_attention(model, x, "conv2")
    assert torch.equal(latent_attention(model.encoder, x, "conv2"), expected)
    assert torch.equal(latent_attention(model, x, "encoder.conv2"), expected)


def test_released_code_is_met_up_to_one_factor_per_batch(vae: Any, images: Any) -> None:
    """The released map: score sum of mu over the batch, gradient over its batch-wide RMS, bilinear, then abs."""
    model, x = vae("mnist"), images("mnist", 6)
    hidden = model.encoder.relu1(model.encoder.conv1(x))
    activation = model.encoder.conv2(hidden).detach().requires_grad_()
    head = model.encoder.relu3(model.encoder.fc1(model.encoder.relu2(activation).flatten(1)))
    model.encoder.mean(head).sum().backward()
    assert activation.grad is not None
    gradient = activation.grad / (activation.grad.pow(2).mean().sqrt() + 1e-5)
    weights = F.avg_pool2d(gradient, gradient.shape[-1])  # (B, K, 1, 1)
    signed = F.interpolate((weights * activation).sum(1, keepdim=True), size=(28, 28), mode="bilinear")
    released = signed.abs().detach()
    assert signed.min() < 0 < signed.max()  # else abs would prove nothing
    found = latent_attention(model, x, "conv2", target="sum", rectify="abs")
    factor = float(found.sum() / released.sum())
    assert near(found, factor * released)


@pytest.mark.parametrize("network", ["mnist", "factor_vae", "conv_batch", "conv_group"])
@pytest.mark.parametrize("target", ["mean", "sample", "kl", "sum"])
def test_a_map_does_not_depend_on_its_batch(network: str, target: str, vae: Any, images: Any) -> None:
    model, x = vae(network), images(network, 64)
    together = latent_attention(model, x, target=target, rectify="abs")
    for i in (0, 31, 63):
        assert near(latent_attention(model, x[i : i + 1], target=target, rectify="abs"), together[i : i + 1])
    assert near(latent_attention(model, x.flip(0), target=target, rectify="abs").flip(0), together)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_independent_of_the_batch(method: str, vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv", 64)
    together = latent_attention(model, x, "relu2", method=method, rectify="abs")
    for i in (0, 63):
        alone = latent_attention(model, x[i : i + 1], "relu2", method=method, rectify="abs")
        assert near(alone, together[i : i + 1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 100])
def test_chunks_change_nothing(chunk: int, method: str, vae: Any, images: Any) -> None:
    model, x = vae("mnist"), images("mnist")
    whole = latent_attention(model, x, method=method, rectify="abs")
    assert near(latent_attention(model, x, method=method, rectify="abs", chunk=chunk), whole)


def test_latents_keep_their_order_and_repetitions(vae: Any, images: Any) -> None:
    model, x = vae("mnist"), images("mnist")
    whole = latent_attention(model, x, rectify="abs")
    assert near(latent_attention(model, x, latents=[4, 0, 0, 2], rectify="abs"), whole[:, [4, 0, 0, 2]])
    part = latent_attention(model, x, latents=[1, 3], target="sum", rectify="none")
    assert near(part, latent_attention(model, x, rectify="none")[:, [1, 3]].sum(1, keepdim=True), 1e-4)


@pytest.mark.parametrize("latents", [[5], [-1], [0, 7], []])
def test_latents_out_of_range_are_refused(latents: list[int], vae: Any, images: Any) -> None:
    with pytest.raises(VaexError, match="out of range: the model has latents 0 to 4"):
        latent_attention(vae("mnist"), images("mnist"), latents=latents)


def test_sizes(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    small = latent_attention(model, x, "conv2", size="layer")
    assert small.shape == (4, 3, 8, 8)
    for size in ((5, 9), [32, 32]):
        expected = F.interpolate(small, size=tuple(size), mode="bilinear", align_corners=False)
        torch.testing.assert_close(latent_attention(model, x, "conv2", size=size), expected)
    assert torch.equal(latent_attention(model, x, "conv2"), latent_attention(model, x, "conv2", size=(32, 32)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": "inptu"}, "did you mean 'input'"),
        ({"size": (0, 4)}, "pair"),
        ({"size": (4,)}, "pair"),
        ({"size": (4.5, 4)}, "pair"),
        ({"size": 7}, r"a pair \(H, W\) of whole pixels, got 7"),
        ({"layer": ["conv1", 2]}, "a name or a list of names"),
        ({"layer": ["conv1", "conv2"], "size": "layer"}, "no common cells"),
        ({"layer": ["conv1", "conv2"], "fuse": "meen"}, "did you mean 'mean'"),
        ({"latents": 2}, r"latents must be a list of whole numbers such as \[0, 3\], got 2"),
        ({"latents": "12"}, "latents must be a list of whole numbers .*, got '12'"),
        ({"latents": [0.5]}, "latents must be a list of whole numbers"),
        ({"method": ["grad_cam"]}, "Unknown attention method"),
        ({"rectify": ["relu"]}, "Unknown rectification"),
        ({"target": 3}, "Unknown attention target '3'"),
        ({"target": ["mean"]}, "Unknown attention target"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"method": "gradcam"}, "did you mean 'grad_cam'"),
        ({"rectify": "rleu"}, "did you mean 'relu'"),
        ({"target": "kll"}, "did you mean 'kl'"),
    ],
)
def test_bad_options_are_answered_in_one_sentence(options: Any, sentence: str, vae: Any, images: Any) -> None:
    with pytest.raises(VaexError, match=sentence):
        latent_attention(vae("conv"), images("conv"), **options)


@pytest.mark.parametrize("shape", [(1, 32, 32), (0, 1, 32, 32)])
def test_images_that_are_no_batch_are_refused(shape: tuple[int, ...], vae: Any) -> None:
    with pytest.raises(VaexError, match=r"\(B, C, H, W\)"):
        latent_attention(vae("conv"), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 48, 48), (2, 1, 32, 33)])
def test_images_that_the_model_does_not_take_are_refused(shape: tuple[int, ...], vae: Any) -> None:
    got = "x".join(map(str, shape[1:]))
    with pytest.raises(VaexError, match=rf"takes images \(B, C, H, W\) of 1x32x32 .*, got {got}; resize"):
        latent_attention(vae("conv"), torch.zeros(shape))


def test_an_image_with_nan_spoils_no_other_map(vae: Any, images: Any) -> None:
    for network in ("mnist", "factor_vae", "conv_batch", "conv_group"):
        model, x = vae(network), images(network, 5)
        clean = latent_attention(model, x, "relu2", rectify="abs")
        x[2, 0, 3, 3] = float("nan")
        spoilt = latent_attention(model, x, "relu2", rectify="abs")
        others = [0, 1, 3, 4]
        assert near(spoilt[others], clean[others])
        assert bool(spoilt[2].isnan().any())


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed", "expanded"])
def test_memory_layout_of_the_images_does_not_matter(layout: str, vae: Any, images: Any) -> None:
    x = images("factor_vae")
    if layout == "channels_last":
        given = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        given = torch.stack([x, torch.zeros_like(x)], dim=-1)[..., 0]
    elif layout == "transposed":
        given = x.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        x = x[:, :1].repeat(1, 3, 1, 1)
        given = x[:, :1].expand(-1, 3, -1, -1)
    assert layout == "channels_last" or not given.is_contiguous()
    model = vae("factor_vae")
    assert near(latent_attention(model, given, rectify="abs"), latent_attention(model, x, rectify="abs"))


def test_precision_is_that_of_the_weights(vae: Any, images: Any) -> None:
    x = images("conv")
    single = latent_attention(vae("conv"), x, rectify="abs")
    double = latent_attention(vae("conv").double(), x, rectify="abs")
    half = latent_attention(vae("conv").bfloat16(), x, rectify="abs")
    assert (double.dtype, half.dtype) == (torch.float64, torch.float32)
    assert near(single.double(), double)
    assert near(half.float(), single, 0.2)


def test_dropout_is_off(images: Any) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, 2), nn.Dropout2d(0.5), nn.ELU(), nn.Flatten(), nn.Dropout(0.5), nn.LazyLinear(3)]
    model, x = nn.Sequential(*layers), images("conv")
    model(x)
    model.train()
    first = latent_attention(model, x, "0", rectify="abs")
    assert torch.equal(first, latent_attention(model, x, "0", rectify="abs"))
    assert near(first, latent_attention(nn.Sequential(*(layers[i] for i in (0, 2, 3, 5))), x, "0", rectify="abs"))


def test_attention_maps_are_the_core_of_latent_attention(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    output = model(x, keep=("conv2",))
    found = attention_maps(output.activations["conv2"], output.posterior.mean, rectify="abs")
    assert not found.requires_grad
    assert near(found, latent_attention(model, x, "conv2", rectify="abs", size="layer"))
