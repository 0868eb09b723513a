"""Methods that look at the image again: gradients at the pixels, paths of images, masked images.

Each is an object that carries its parameters and turns a `View` into unrectified maps (B, T, h, w). Those of the pixels
do not read the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention.checks import at_least, not_negative
from vaex.attention.gradients import summable, target_gradients
from vaex.errors import VaexError, unknown

BASELINES = ("black", "blurred", "counterfactual")


class View(NamedTuple):
    """What a method may ask: all functions take images (B, C, H, W) that may carry a graph."""

    images: Tensor
    targets: Callable[[Tensor], Tensor]
    """The T targets of images, (B, T), with graph."""
    activation: Callable[[], Tensor]
    """The activation (B, K, h, w) of the layer, without graph."""
    counterfactual: Callable[[int], Tensor]
    """The images decoded from their codes with the latent of target i set to 0, without graph."""
    chunk: int | None = None
    create_graph: bool = False


class ImageMethod:
    """A method that looks at the image again; ``pixels`` tells that it does not read the layer."""

    pixels = True

    def maps(self, view: View) -> Tensor:
        """Return unrectified maps (B, T, h, w)."""
        raise NotImplementedError


def _pixel_gradients(view: View, images: Tensor, targets: slice = slice(None)) -> Tensor:
    """Return d targets / d images, (T, B, C, H, W); an image that carries a graph keeps it for a second order."""
    with torch.enable_grad():
        leaf = images if view.create_graph and images.requires_grad else images.detach().requires_grad_()
        values = view.targets(leaf)[:, targets]
        gradients = torch.cat(list(target_gradients(values, leaf, view.chunk, view.create_graph)))
        return gradients if view.create_graph else summable(gradients)


@dataclass(frozen=True)
class Gradient(ImageMethod):
    """Sum over colours of d target / d pixel: which pixels a small change would be felt from; noisy.

    Source: Simonyan et al., ICLR workshop 2014. Differs: signed and summed over colours; rectify=abs for its size.
    """

    def maps(self, view: View) -> Tensor:
        """Return unrectified maps (B, T, H, W)."""
        return _pixel_gradients(view, view.images).sum(2).transpose(0, 1)


@dataclass(frozen=True)
class SmoothGradient(ImageMethod):
    """`Gradient` averaged over ``n`` images with Gaussian noise of ``deviation`` in units of pixel values.

    The noise is seeded and the same for all images of a batch, so that a map does not depend on its neighbours.

    Source: Smilkov et al., arXiv 1706.03825, with their noise of 10-20 % of the pixel range.

    Raises:
        VaexError: for ``n`` below 1 or a negative deviation.
    """

    n: int = 8
    deviation: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("smooth_gradient needs n >= 1, a whole number", self.n, 1)
        at_least("smooth_gradient needs a seed >= 0, a whole number", self.seed, 0)
        not_negative("deviation of smooth_gradient", self.deviation)

    def maps(self, view: View) -> Tensor:
        """Return unrectified maps (B, T, H, W)."""
        generator = torch.Generator().manual_seed(self.seed)
        total: Tensor | float = 0.0
        for _ in range(self.n):
            noise = torch.randn(view.images.shape[1:], generator=generator, dtype=torch.float64).to(view.images)
            total = total + _pixel_gradients(view, view.images + self.deviation * noise).sum(2)
        return torch.as_tensor(total / self.n).transpose(0, 1)


def blurred(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) under a Gaussian blur of deviation H/8 pixels, borders repeated."""
    deviation = images.shape[-2] / 8
    reach = int(3 * deviation) + 1
    steps = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (steps / deviation).square())
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel[..., None, :], groups=images.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=images.shape[1])


@dataclass(frozen=True)
class IntegratedGradients(ImageMethod):
    """(x - x') times the gradient averaged on the straight way from a baseline x' to x, summed over colours.

    Complete: a map with rectify=none sums to S(x) - S(x'), the better the more ``steps`` (midpoint rule). The baseline
    is the question: ``black`` asks what makes the target differ from that of a black image, ``blurred`` from one
    without detail, ``counterfactual`` from the decoded image g(mu with mu_i = 0), one for each latent.

    Source: Sundararajan et al., ICML 2017, Eq. 1-3.

    Raises:
        VaexError: for an unknown baseline or fewer than 1 step.
    """

    steps: int = 16
    baseline: str = "black"

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise unknown("baseline of integrated gradients", str(self.baseline), BASELINES)
        at_least("integrated_gradients needs a whole number of at least 1 step", self.steps, 1)

    def _along(self, view: View, baseline: Tensor, targets: slice) -> Tensor:
        way = view.images - baseline
        total: Tensor | float = 0.0
        for step in range(self.steps):
            total = total + _pixel_gradients(view, baseline + (step + 0.5) / self.steps * way, targets)
        return (way * torch.as_tensor(total) / self.steps).sum(2)

    def maps(self, view: View) -> Tensor:
        """Return unrectified maps (B, T, H, W)."""
        if self.baseline != "counterfactual":
            baseline = torch.zeros_like(view.images) if self.baseline == "black" else blurred(view.images)
            return self._along(view, baseline, slice(None)).transpose(0, 1)
        with torch.no_grad():
            count = view.targets(view.images).shape[1]
        parts = [self._along(view, view.counterfactual(i), slice(i, i + 1)) for i in range(count)]
        return torch.cat(parts).transpose(0, 1)


@dataclass(frozen=True)
class ScoreCAM(ImageMethod):
    """Sum of the channels, each weighed by how far the image seen through it moves the target from a baseline's.

    Channel k, scaled to [0, 1] and resized, mixes image and ``baseline`` (black or blurred); its weight is the
    |change| of the target against the baseline, as a share of all channels' changes. It needs K forward passes and no
    gradient, so it carries none, and a ``chunk`` of targets per backward pass changes nothing.

    Source: Wang et al., CVPR workshops 2020. Differs: |change| of a signed latent, and shares for their softmax, which
    would depend on the unit of the latent.

    Raises:
        VaexError: for an unknown baseline.
    """

    baseline: str = "black"
    pixels = False

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES[:2]:
            raise unknown("baseline of score_cam", str(self.baseline), BASELINES[:2])

    def maps(self, view: View) -> Tensor:
        """Return unrectified maps (B, T, h, w)."""
        if view.create_graph:
            raise VaexError("score_cam uses no gradient, so it cannot be part of a loss; use another method.")
        activation, images = summable(view.activation()), view.images
        low, high = activation.amin((-2, -1), keepdim=True), activation.amax((-2, -1), keepdim=True)
        masks = (activation - low) / torch.where(high > low, high - low, 1.0)
        masks = F.interpolate(masks, size=images.shape[-2:], mode="bilinear", align_corners=False).to(images)
        with torch.no_grad():
            baseline = torch.zeros_like(images) if self.baseline == "black" else blurred(images)
            start = view.targets(baseline)  # (B, T)
            changes = [
                (view.targets(baseline + masks[:, k : k + 1] * (images - baseline)) - start).abs()
                for k in range(masks.shape[1])
            ]
        weights = torch.stack(changes, -1).to(activation)  # (B, T, K)
        total = weights.sum(-1, keepdim=True)
        return torch.einsum("btk,bkhw->bthw", weights / torch.where(total > 0, total, 1.0), activation)


IMAGE_METHODS: dict[str, type[ImageMethod]] = {
    "score_cam": ScoreCAM,
    "gradient": Gradient,
    "smooth_gradient": SmoothGradient,
    "integrated_gradients": IntegratedGradients,
}
"""Methods that look at the image again, by name."""
