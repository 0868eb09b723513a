"""The VAE: encoder, reparameterisation, decoder, likelihood and prior in one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vaex.attention.layers import capture
from vaex.networks.decoders import Decoder
from vaex.networks.encoders import Encoder
from vaex.networks.likelihoods import Bernoulli, Gaussian, Laplace, LikelihoodHead
from vaex.priors.normal import StandardNormal
from vaex.types import Posterior, VAEOutput


class VAE(nn.Module):
    """A variational autoencoder of images (B, C, H, W) in [0, 1] with D latents.

    Source: Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, likelihood: LikelihoodHead, prior: StandardNormal) -> None:
        super().__init__()
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
        """Return q(z|x), mean and logvar (B, D)."""
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
            VaexError: when ``keep`` names no layer (the valid names are listed) or one that runs twice.
        """
        with capture(self, keep) as activations:
            posterior = self.encode(images)
            z = posterior.sample() if (self.training if sample is None else sample) else posterior.mean
            likelihood = self.decode(z)
        return VAEOutput(posterior, z, likelihood, self.prior.kl(posterior, z), activations)
