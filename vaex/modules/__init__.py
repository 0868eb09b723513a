"""LightningModules: they only wire network, objective and optimiser together."""

from vaex.modules.choice import module_class
from vaex.modules.factor_vae import FactorVAEModule
from vaex.modules.feature_vae import FeatureVAEModule
from vaex.modules.vae import VAEModule

__all__ = ["FactorVAEModule", "FeatureVAEModule", "VAEModule", "module_class"]
