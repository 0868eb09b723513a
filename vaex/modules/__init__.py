"""LightningModules: they only wire network, objective and optimiser together."""

from vaex.modules.feature_vae import FeatureVAEModule, module_class
from vaex.modules.vae import VAEModule

__all__ = ["FeatureVAEModule", "VAEModule", "module_class"]
