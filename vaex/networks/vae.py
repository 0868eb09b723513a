"""The VAE: encoder, reparameterisation, decoder, likelihood and prior in one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vaex.attention.layers import capture
from vaex.errors import VaexError
from vaex.networks.decoders import Decoder
from vaex.networks.encoders import Encoder
from vaex.networks.likelihoods import Bernoulli, Gaussian, Laplace, LikelihoodHead
from vaex.priors.normal import StandardNormal
from vaex.shapes import in_words
from vaex.types import Posterior, VAEOutput


class VAE(nn.Module):
    """A variational autoencoder of images (B, C, H, W) in [0, 1] with D latents.

    Source: Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        likelihood: LikelihoodHead,
        prior: StandardNormal,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        """Images (C, H, W) that the networks take; None where nobody told, and then nothing is checked."""
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.config: dict[str, Any] = {}
        """What a checkpoint says of the run that trained this model, as plain values."""
        self.calibration: dict[str, Any] = {}
        """What was fitted after training; empty where nothing was."""

    @property
    def latents(self) -> int:
        """Number D of latents."""
        return self.encoder.latents

    def encode(self, images: Tensor) -> Posterior:
        """Return q(z|x), mean and logvar (B, D).

        Raises:
            VaexError: when the images are not (B, C, H, W) of `shape`.
        """
        if self.shape is not None and tuple(images.shape[1:]) != self.shape:
            came = in_words(images.shape[1:]) if images.dim() == 4 else f"a tensor of shape {tuple(images.shape)}"
            raise VaexError(
                f"The model takes images (B, C, H, W) of {in_words(self.shape)} (channels x height x width), "
                f"got {came}; resize or convert the images, or choose another model."
            )
        posterior: Posterior = self.encoder(images)
        return posterior

    def decode(self, z: Tensor) -> Bernoulli | Gaussian | Laplace:
        """Return p(x|z) for codes (B, D)."""
        likelihood: Bernoulli | Gaussian | Laplace = self.likelihood(self.decoder(z))
        return likelihood

    def forward(self, images: Tensor, keep: Sequence[str] = (), sample: bool | None = None) -> VAEOutput:
        """Encode, draw z, decode.

        ``keep`` names layers whose activations come back in the output, with their graph. ``sample=False``
        takes z = mean; the default samples in training mode only, as the paper's code does.

        Raises:
            VaexError: as `encode`; when ``keep`` names no layer (the valid names are listed) or one that runs twice.
        """
        with capture(self, keep) as activations:
            posterior = self.encode(images)
            z = posterior.sample() if (self.training if sample is None else sample) else posterior.mean
            likelihood = self.decode(z)
        return VAEOutput(posterior, z, likelihood, self.prior.kl(posterior, z), activations)
