"""Neural networks as plain `nn.Module`s: encoders, decoders, likelihoods and the VAE that joins them."""

from vaex.networks.decoders import Decoder, conv_decoder, factor_vae_decoder, mnist_decoder
from vaex.networks.discriminator import Discriminator
from vaex.networks.encoders import Encoder, conv_encoder, factor_vae_encoder, mnist_encoder
from vaex.networks.feature_vae import FeatureVAE, feature_grid_vae, feature_vector_vae
from vaex.networks.features import FrozenFeatures
from vaex.networks.resnet import resnet18_decoder, resnet18_encoder
from vaex.networks.vae import VAE

__all__ = [
    "VAE",
    "Decoder",
    "Discriminator",
    "Encoder",
    "FeatureVAE",
    "FrozenFeatures",
    "conv_decoder",
    "conv_encoder",
    "factor_vae_decoder",
    "factor_vae_encoder",
    "feature_grid_vae",
    "feature_vector_vae",
    "mnist_decoder",
    "mnist_encoder",
    "resnet18_decoder",
    "resnet18_encoder",
]
