"""The four values that travel between the floors of vaex.

Letters used in every shape: ``B`` batch, ``C`` image channels, ``H W`` pixels, ``K`` channels of the
layer, ``h w`` its cells, ``D`` latents, ``T`` targets, ``F`` factors, ``S`` samples, ``N`` images.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)
"""Log-variances are clamped to this range, so that a variance neither vanishes nor overflows in fp32."""


class Batch(TypedDict, total=False):
    """What a vaex data module yields; a key that a dataset does not have is absent."""

    image: Tensor  # (B, C, H, W) float in [0, 1]
    mask: Tensor  # (B, 1, H, W) float, 1 where the object or the defect is
    label: Tensor  # (B,) long, 1 for anomalous
    group: Tensor  # (B,) long, kind of the image, such as the type of defect; the data module names them in group_names
    factors: Tensor  # (B, F) long, class of each generative factor
    index: Tensor  # (B,) long, position in the dataset
    image_of: Tensor  # (B,) long, which image of the dataset a tile is of; absent where images are not cut into tiles
    clean: Tensor  # (B, C, H, W) float in [0, 1], the image without its pasted defect
    clean_index: Tensor  # (B,) long, position of that image in the dataset
    kind: Tensor  # (B,) long, what was pasted, a position in vaex.data.anomalies.KINDS; -1 where nothing was


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x) = N(mean, exp(logvar)), both (B, D) or, for a latent grid, (B, D, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw z = mean + exp(logvar / 2) * eps by reparameterisation, shaped like ``mean``."""
        if generator is None:  # compiled code of any batch size takes no generator, not even None
            noise = torch.randn_like(self.mean)
        else:
            noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl_to_normal(self) -> Tensor:
        """Return KL(q(z|x) || N(0, 1)) in nats, shaped like ``mean``, in fp32 at least.

        Source: Kingma & Welling, ICLR 2014, appendix B.
        """
        mean, logvar = (part.float() if part.dtype != torch.float64 else part for part in self)
        # expm1: exp(logvar) - 1 would round a KL near 0 to a negative number
        return 0.5 * (mean.square() + (torch.expm1(logvar) - logvar))


class NormalCodes(NamedTuple):
    """The codes of normal images, as calibration finds them."""

    mean: Tensor  # (D,) mean of the posterior means
    covariance: Tensor  # (D, D) covariance of the posterior means
    variance: Tensor  # (D,) mean of the posterior variances


class Likelihood(Protocol):
    """p(x|z) of one batch, as the decoder states it."""

    @property
    def mean(self) -> Tensor:
        """Expected image, (B, C, H, W)."""

    def log_prob(self, images: Tensor) -> Tensor:
        """Log-likelihood in nats per image, summed over pixels: (B,)."""


class VAEOutput(NamedTuple):
    """One forward pass of a VAE.

    ``kl`` is KL(q(z|x) || p(z)) in nats, (B, D) where the prior factorises over latents, else (B, 1).
    ``activations`` holds the layers named by ``keep``, each (B, K, h, w).
    """

    posterior: Posterior
    z: Tensor
    likelihood: Likelihood
    kl: Tensor
    activations: dict[str, Tensor]

    @property
    def reconstruction(self) -> Tensor:
        """Expected image given z, (B, C, H, W)."""
        return self.likelihood.mean


class Explanation(NamedTuple):
    """What `vaex.explain` says about a batch; all tensors are fp32 and carry no graph.

    None stands for what the model does not state.
    """

    maps: Tensor  # (B, T, H, W) one map per target, by default one per latent
    score_map: Tensor  # (B, 1, H, W) "anomalous here"
    score: Tensor  # (B,) its one number per image
    mean: Tensor  # (B, D) posterior means, the codes
    logvar: Tensor | None  # (B, D)
    kl: Tensor | None  # (B, D) nats
    reconstruction: Tensor | None  # (B, C, H, W)

    def image(self, position: int) -> Explanation:
        """Return the explanation of one image of the batch, on the CPU, with B = 1."""
        parts: list[Any] = [None if part is None else part[position : position + 1].cpu() for part in self]
        return Explanation(*parts)
