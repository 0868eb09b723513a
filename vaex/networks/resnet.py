"""ResNet-18 as a VAE: the encoder of He et al., and a decoder that mirrors it with nearest upsampling.

Stages are called as in the paper's code, ``conv1`` and ``layer1`` to ``layer4``; no layer inside a block shares these
names, so that ``attention.layer=layer4`` and ``attention.layer=conv1`` each mean one layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from vaex.errors import VaexError
from vaex.networks.decoders import Decoder
from vaex.networks.encoders import NORMS, Encoder, normalisation
from vaex.shapes import check_shape

WIDTHS = (64, 128, 256, 512)
"""Channels of ``layer1`` to ``layer4``; each but the first halves the cells."""


def convolution(inner: int, outer: int, kernel: int, stride: int = 1, *, norm: str) -> list[nn.Module]:
    """Return a convolution that keeps the cells but for ``stride``, and the normalisation behind it, if any."""
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=norm == "none")  # a norm has a bias of its own
    if not conv.weight.is_meta:  # which holds no numbers, and would import a compiler to draw them
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    layer = normalisation(norm, outer)
    return [conv] if layer is None else [conv, layer]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, (B, ``inner``, h, w) to (B, ``outer``, h', w').

    ``stride`` 2 halves the cells; ``upsample`` doubles them first, both ways. The shortcut is the identity where
    nothing changes, else a 1x1 convolution. No ReLU works in place, since any layer may be read for a map.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Fig. 2 and option B.
    """

    def __init__(self, inner: int, outer: int, norm: str, stride: int = 1, upsample: bool = False) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2) if upsample else nn.Identity()
        self.first = nn.Sequential(*convolution(inner, outer, 3, stride, norm=norm))
        self.inner_relu = nn.ReLU()
        self.second = nn.Sequential(*convolution(outer, outer, 3, norm=norm))
        changed = stride != 1 or inner != outer
        self.shortcut = nn.Sequential(*convolution(inner, outer, 1, stride, norm=norm)) if changed else nn.Identity()
        self.outer_relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Return ReLU(second(ReLU(first(x))) + shortcut(x))."""
        images = self.upsample(images)
        hidden = self.second(self.inner_relu(self.first(images)))
        return self.outer_relu(hidden + self.shortcut(images))  # type: ignore[no-any-return]


def checked_shape(shape: tuple[int, int, int], norm: str) -> tuple[int, int]:
    """Return (channels, pixels a side) of images that the network takes.

    Raises:
        VaexError: for other images, or an unknown normalisation.
    """
    channels, size, _ = check_shape("resnet18", shape)
    if norm not in NORMS:
        raise VaexError(f"network.norm must be one of {', '.join(NORMS)}, got '{norm}'.")
    return channels, size


def resnet18_encoder(shape: tuple[int, int, int], latents: int = 32, norm: str = "batch") -> Encoder:
    """ResNet-18 without its classifier, for square images of 64 to 256 pixels; ``layer4`` has size / 32 cells a side.

    Source: He et al., CVPR 2016, Table 1, 18-layer.

    Raises:
        VaexError: for images that it does not take, or an unknown normalisation.
    """
    channels, _ = checked_shape(shape, norm)
    conv1, *norms = convolution(channels, 64, 7, 2, norm=norm)
    layers: dict[str, nn.Module] = {"conv1": conv1}  # (B, 64, size / 2, size / 2)
    if norms:
        layers["norm1"] = norms[0]
    layers["relu1"] = nn.ReLU()
    layers["pool1"] = nn.MaxPool2d(3, 2, 1)  # (B, 64, size / 4, size / 4)
    inner = 64
    for stage, outer in enumerate(WIDTHS, start=1):
        stride = 1 if stage == 1 else 2
        layers[f"layer{stage}"] = nn.Sequential(BasicBlock(inner, outer, norm, stride), BasicBlock(outer, outer, norm))
        inner = outer
    layers["pool2"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return Encoder(layers, 512, latents)


def resnet18_decoder(shape: tuple[int, int, int], latents: int = 32, norm: str = "batch") -> Decoder:
    """Mirror of `resnet18_encoder`: residual blocks, nearest upsampling wherever the encoder halves the cells.

    Differs: global pooling has no mirror, so a linear layer makes 512 channels of size / 32 cells a side from z.

    Raises:
        VaexError: for images that the encoder does not take, or an unknown normalisation.
    """
    channels, size = checked_shape(shape, norm)
    cells = size // 32
    layers: dict[str, nn.Module] = {
        "fc1": nn.Linear(latents, 512 * cells**2),
        "relu1": nn.ReLU(),
        "unflatten": nn.Unflatten(1, (512, cells, cells)),
    }
    outers = [64, *WIDTHS[:-1]]
    for stage in (4, 3, 2, 1):  # to (B, 64, size / 4, size / 4)
        inner, outer = WIDTHS[stage - 1], outers[stage - 1]
        layers[f"stage{stage}"] = nn.Sequential(
            BasicBlock(inner, inner, norm), BasicBlock(inner, outer, norm, upsample=stage > 1)
        )
    layers["upsample1"] = nn.Upsample(scale_factor=2)  # (B, 64, size / 2, size / 2)
    deconv1, *norms = convolution(64, 64, 3, norm=norm)
    layers["deconv1"] = deconv1
    if norms:
        layers["norm1"] = norms[0]
    layers["relu2"] = nn.ReLU()
    layers["upsample2"] = nn.Upsample(scale_factor=2)  # (B, 64, size, size)
    layers["deconv2"] = nn.Conv2d(64, channels, 3, 1, 1)  # (B, C, size, size)
    return Decoder(layers)
