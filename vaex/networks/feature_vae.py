"""A VAE of whitened frozen image features, with one code per image or a grid of latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.layers import capture
from vaex.errors import VaexError
from vaex.networks.decoders import Decoder
from vaex.networks.feature_coders import (
    FeatureDecoder,
    FeatureEncoder,
    FeatureGaussian,
    FeatureLikelihood,
    GridEncoder,
    grid_decoder,
)
from vaex.networks.feature_memory import FeatureMemory
from vaex.networks.features import FrozenFeatures
from vaex.networks.vae import VAE
from vaex.networks.whitening import PositionWhitening, Whitening
from vaex.priors.normal import StandardNormal
from vaex.shapes import in_words
from vaex.types import Posterior, VAEOutput


class FeatureVAE(VAE):
    """A VAE whose likelihood is of the features of the images (B, C, H, W) in [0, 1], not of their pixels.

    ``features`` are frozen, whitened over the channels and, where ``position`` is given, at each position; both are
    fitted to normal images (`fit_whitening`, `fit_position`) before training. The decoder starts at the mean of the
    normal features where it has a ``bias``. The layer ``input`` is what is encoded.

    Source: the VAE of features is FAVAE's (Dehaene & Eline, 2020) without its several scales.
    Differs: the features are whitened.
    """

    def __init__(
        self,
        backbone: FrozenFeatures,
        whitening: Whitening,
        encoder: FeatureEncoder | GridEncoder,
        decoder: Decoder,
        prior: StandardNormal,
        shape: tuple[int, int, int] | None = None,
        position: PositionWhitening | None = None,
    ) -> None:
        likelihood: Any = FeatureLikelihood(backbone.channels)
        coder: Any = encoder  # of features instead of pixels, and yet used as those of a VAE are
        super().__init__(coder, decoder, likelihood, prior, shape)
        self.backbone = backbone
        self.whitening = whitening
        self.position = position
        self.input = nn.Identity()  # what is encoded, as a layer that maps are read from

    @property
    def ready(self) -> bool:
        """Whether all that is fitted before training has been fitted."""
        return self.whitening.ready and (self.position is None or self.position.ready)

    def remember(self) -> None:
        """Compute the features of each image once from here on; see `FeatureMemory`."""
        if self.backbone.memory is None:
            self.backbone.memory = FeatureMemory()

    def raw_features(self, images: Tensor) -> Tensor:
        """Return the features of images (B, C, H, W) before whitening, (B, K, h, w).

        What has the shape of features is taken for them and returned as it is, so that all that takes images takes
        features that were computed before.

        Raises:
            VaexError: when the images are not of `shape`.
        """
        if tuple(images.shape[1:]) == (self.backbone.channels, self.backbone.grid, self.backbone.grid):
            return images
        if self.shape is not None and tuple(images.shape[1:]) != self.shape:
            came = in_words(images.shape[1:]) if images.dim() == 4 else f"a tensor of shape {tuple(images.shape)}"
            raise VaexError(
                f"The model takes images (B, C, H, W) of {in_words(self.shape)} (channels x height x width), "
                f"got {came}; resize or convert the images, or choose another model."
            )
        features: Tensor = self.backbone(images)
        return features

    def whitened(self, raw: Tensor) -> Tensor:
        """Return what is encoded of raw features, (B, K, h, w)."""
        features: Tensor = self.whitening(raw)
        return features if self.position is None else self.position(features)

    def features(self, images: Tensor) -> Tensor:
        """Return what the likelihood is of: the whitened features (B, K, h, w) of images (B, C, H, W) in [0, 1]."""
        return self.whitened(self.raw_features(images))

    def encode(self, images: Tensor) -> Posterior:
        """Return q(z|f), mean and logvar (B, D), or (B, D, h, w) of a latent grid.

        Raises:
            VaexError: as `raw_features`.
        """
        posterior: Posterior = self.encoder(self.input(self.features(images)))
        return posterior

    def decode(self, z: Tensor) -> FeatureGaussian:  # type: ignore[override] # of features instead of pixels
        """Return p(f|z) for codes (B, D), or (B, D, h, w) of a latent grid; ``log_prob`` of it takes images too."""
        likelihood: FeatureGaussian = self.likelihood(self.decoder(z))
        return likelihood._replace(read=self._unseen)

    def _unseen(self, images: Tensor) -> Tensor:
        # Past the hooks: a layer whose activation is captured must not be seen to run twice
        features = self.whitening.forward(self.raw_features(images))
        return features if self.position is None else self.position.forward(features)

    def forward(
        self, images: Tensor, keep: Sequence[str] = (), sample: bool | None = None, features: Tensor | None = None
    ) -> VAEOutput:
        """Encode, draw z, decode, as `VAE.forward` does; the likelihood knows the features of ``images``.

        ``features`` (B, K, h, w), where given, are what `features` would return, and the images are not looked at.
        """
        with capture(self, keep) as activations:
            target = self.features(images) if features is None else features
            posterior: Posterior = self.encoder(self.input(target))
            z = posterior.sample() if (self.training if sample is None else sample) else posterior.mean
            likelihood = self.decode(z)._replace(target=target)
        return VAEOutput(posterior, z, likelihood, self.prior.kl(posterior, z), activations)

    def fit_whitening(self, batches: Iterable[Tensor]) -> None:
        """Fit the whitening of channels to raw features of normal images, batches (B, K, h, w), in one pass.

        Raises:
            VaexError: as `Whitening.fit`.
        """
        mean = self.whitening.fit(batches)
        if isinstance(self.decoder, FeatureDecoder):
            with torch.no_grad():
                self.decoder.bias.copy_(self.whitening(mean[None])[0])  # linear: the mean of the whitened features

    def fit_position(self, features: Tensor) -> None:
        """Fit the whitening at each position to channel-whitened features of normal images, (N, K, h, w).

        Raises:
            VaexError: as `PositionWhitening.fit`; for a model without it.
        """
        if self.position is None:
            raise VaexError("This feature VAE whitens channels alone; choose network=feature_grid.")
        self.position.fit(features)


def _checked(shape: tuple[int, int, int], latents: int, grid: int) -> None:
    if shape[0] not in (1, 3) or min(shape[1:]) < 32:
        raise VaexError(f"Feature VAEs take grey or RGB images of at least 32 pixels, got {in_words(shape)}.")
    if latents < 1:
        raise VaexError(f"network.latents must be at least 1, got {latents}.")
    if grid < 4 or grid % 4:
        raise VaexError(f"network.grid must be a multiple of 4, got {grid}.")


def feature_vector_vae(
    shape: tuple[int, int, int],
    prior: StandardNormal,
    latents: int = 64,
    backbone: str = "efficientnet_lite0",
    blocks: Sequence[int] = (2, 4, 7, 10),
    size: int | Sequence[int] = 384,
    grid: int = 32,
    whiten: bool = True,
    widths: Sequence[int] = (96, 128, 192),
) -> FeatureVAE:
    """Return a feature VAE with one code per image; see `FrozenFeatures` for ``backbone`` to ``grid``.

    Raises:
        VaexError: for a value out of range.
    """
    _checked(shape, latents, grid)
    if len(widths) != 3 or any(type(width) is not int or width < 1 for width in widths):
        raise VaexError(f"network.widths must be three whole numbers of at least 1, got {list(widths)}.")
    frozen = FrozenFeatures(backbone, blocks, size, grid)
    channels = frozen.channels
    encoder = FeatureEncoder(channels, grid, latents, widths)
    decoder = FeatureDecoder(channels, grid, latents, widths)
    return FeatureVAE(frozen, Whitening(channels, whiten), encoder, decoder, prior, shape)


def feature_grid_vae(
    shape: tuple[int, int, int],
    prior: StandardNormal,
    latents: int = 256,
    backbone: str = "efficientnet_lite0",
    blocks: Sequence[int] = (2, 4, 7, 10),
    size: int | Sequence[int] = 256,
    grid: int = 32,
    whiten: bool = True,
    hidden: int = 96,
    decoder_hidden: int = 128,
    rank: int = 48,
    shrink: float = 1.0,
    kernel: int = 3,
) -> FeatureVAE:
    """Return a feature VAE with a grid of latents, one code per position, whose features are whitened at each.

    Raises:
        VaexError: for a value out of range.
    """
    _checked(shape, latents, grid)
    if hidden < 1 or decoder_hidden < 1:
        raise VaexError(f"network.hidden and decoder_hidden must be at least 1, got {hidden} and {decoder_hidden}.")
    if type(kernel) is not int or kernel < 1 or kernel % 2 == 0:
        raise VaexError(f"network.kernel must be an odd number of cells, got {kernel!r}.")
    frozen = FrozenFeatures(backbone, blocks, size, grid)
    channels = frozen.channels
    encoder, decoder = GridEncoder(channels, latents, hidden, kernel), grid_decoder(channels, latents, decoder_hidden)
    whitening, position = Whitening(channels, whiten), PositionWhitening(channels, grid, rank, shrink)
    return FeatureVAE(frozen, whitening, encoder, decoder, prior, shape, position)


def statistics_of(model: VAE) -> dict[str, Tensor]:
    """Return the part of a state dict that is fitted to images before training; of a VAE of pixels nothing is."""
    if not isinstance(model, FeatureVAE):
        return {}
    return {name: part for name, part in model.state_dict().items() if name.startswith(("whitening.", "position."))}
