"""Frozen image features: a pretrained network that is not trained, read at several depths on one grid."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.errors import VaexError, unknown
from vaex.networks.efficientnet import SHA256, pretrained_lite0
from vaex.networks.feature_memory import FeatureMemory

TOGETHER = 1 << 25
"""Bytes of one activation, at most, for which images go through a backbone together on the CPU: glibc gives larger
blocks back to the system and zeroes new ones, at every layer, which takes longer than the convolutions."""

WIDEST = 96
"""Bytes of the largest activation for each pixel of an image: EfficientNet-Lite0 has 96 channels at half the height and
width."""

TIMM = "timm:"
"""What the name of a backbone out of timm starts with."""


class TimmBackbone(nn.Module):
    """The feature maps ``blocks`` (numbers of its ``feature_info``) of a pretrained model of timm.

    Raises:
        VaexError: when timm is not installed, or does not know the model or the maps.
    """

    def __init__(self, name: str, blocks: Sequence[int]) -> None:
        super().__init__()
        if not re.fullmatch(r"[\w.-]+", name):  # timm also takes addresses of strangers' models, and folders
            raise VaexError(
                f"network.backbone={TIMM}{name} must be the plain name of a model of timm, such as {TIMM}resnet18."
            )
        try:
            timm: Any = importlib.import_module("timm")  # no extra of vaex: for those who have it
        except ImportError as error:
            raise VaexError(
                f"network.backbone={TIMM}{name} needs timm, which is not installed: run `pip install timm`, or choose "
                "network.backbone=efficientnet_lite0."
            ) from error
        try:
            self.network = timm.create_model(name, pretrained=True, features_only=True, out_indices=tuple(blocks))
        except Exception as error:  # timm raises many kinds: unknown names, indices out of range, no weights, no net
            reason = str(error).partition("\n")[0]
            raise VaexError(
                f"timm gives no pretrained feature maps {list(blocks)} of '{name}' ({reason}); correct "
                "network.backbone or network.blocks."
            ) from error
        self.channels = tuple(self.network.feature_info.channels())
        source: Mapping[str, Any] = getattr(self.network, "pretrained_cfg", None) or self.network.default_cfg
        for statistic in ("mean", "std"):
            self.register_buffer(statistic, torch.tensor(source[statistic]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of images (B, 3, H, W) in [0, 1], each (B, K, h, w)."""
        return list(self.network((images - self.get_buffer("mean")) / self.get_buffer("std")))


def _backbone(name: str, blocks: Sequence[int]) -> tuple[nn.Module, str]:
    """Return a pretrained network and the sha256 of its weights."""
    if name == "efficientnet_lite0":
        return pretrained_lite0(blocks), SHA256
    if not name.startswith(TIMM):
        raise unknown("backbone", name, ["efficientnet_lite0", f"{TIMM}MODEL"])
    network = TimmBackbone(name.removeprefix(TIMM), blocks)
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return network, digest.hexdigest()


def _freeze(network: nn.Module) -> None:
    """Turn parameters into buffers that no checkpoint stores: nothing to train, and nothing to keep twice."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
        module._non_persistent_buffers_set.update(module._buffers)


class FrozenFeatures(nn.Module):
    """Features (B, K, ``grid``, ``grid``) of images: outputs of ``blocks`` of a pretrained ``backbone``, concatenated.

    ``backbone`` is ``efficientnet_lite0`` (blocks 0 to 14; 2, 4, 7, 10 have 24 + 40 + 80 + 112 = 256 channels) or
    ``timm:MODEL`` with the numbers of its feature maps for ``blocks``. Images are resized to ``size`` pixels a side; of
    several sizes the features are averaged.
    The backbone is always in evaluation mode and runs in the precision of its weights, whatever autocast says; it has
    no parameters, and gradients reach the image. A checkpoint holds the sha256 of its weights instead of them.

    Raises:
        VaexError: for an unknown backbone, one that is not installed, or a value out of range.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        blocks: Sequence[int] = (2, 4, 7, 10),
        size: int | Sequence[int] = 384,
        grid: int = 32,
    ) -> None:
        super().__init__()
        sizes = list(size) if isinstance(size, Sequence) else [size]
        if not sizes or any(type(side) is not int or side < 32 for side in sizes) or grid < 1:
            raise VaexError(
                "network.size must be a whole number of at least 32, or a list of them, and network.grid at least 1, "
                f"got {size!r} and {grid}."
            )
        if not isinstance(blocks, Sequence) or any(type(block) is not int for block in blocks):
            raise VaexError(f"network.blocks must be a list of whole numbers, got {blocks!r}.")
        self.name, self.sizes, self.grid = backbone, tuple(sizes), grid
        self.memory: FeatureMemory | None = None
        """Where set, the features of an image are computed once."""
        self.network, digest = _backbone(backbone, blocks)
        self.channels = sum(self.network.channels)  # type: ignore[arg-type]
        """Number K of channels."""
        _freeze(self.network)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a seventh faster on the CPU
        self.network.eval()
        # Floats hold a byte exactly in every precision; averaging of weights rounds, and would truncate whole numbers
        self.register_buffer("fingerprint", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.float32))

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode, whatever ``mode`` is."""
        super().train(False)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}fingerprint")
        known = self.get_buffer("fingerprint")
        if stored is not None and not torch.equal(stored.cpu().float().round(), known.cpu().float()):
            raise VaexError(
                f"The checkpoint was trained on the features of other weights of {self.name} than those installed here "
                "(their sha256 differs); install the version it was trained with."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, K, grid, grid) of images (B, 1 or 3, H, W) in [0, 1]; grey ones are repeated.

        Blocks with more cells than ``grid`` are averaged, those with fewer interpolated.
        """
        weight = next(value for value in self.network.buffers() if value.is_floating_point())
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(weight.dtype)
            return self._features(images) if self.memory is None else self.memory(images, self._features)

    def _features(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        found = [self._features_at(images, size) for size in self.sizes]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def _features_at(self, images: Tensor, size: int) -> Tensor:
        height, width = images.shape[-2:]
        if (height, width) != (size, size):
            smaller = size < max(height, width)  # without antialiasing fine texture would fold into coarse one
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=smaller).clamp(0, 1)
        images = images.contiguous(memory_format=torch.channels_last)
        if images.device.type != "cpu" or torch.compiler.is_compiling() or type(images) is not Tensor:
            return self._read(images)
        return torch.cat([self._read(part) for part in images.split(max(1, TOGETHER // (WIDEST * size**2)))])

    def _read(self, images: Tensor) -> Tensor:
        return torch.cat([_to_grid(output, self.grid) for output in self.network(images)], 1).contiguous()


def _to_grid(features: Tensor, grid: int) -> Tensor:
    height, width = features.shape[-2:]
    if (height, width) == (grid, grid):
        return features
    if min(height, width) >= grid:
        return F.adaptive_avg_pool2d(features, (grid, grid))
    return F.interpolate(features, (grid, grid), mode="bilinear", align_corners=False)
