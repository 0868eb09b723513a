"""LightningModules: they only wire network, objective and optimiser together."""

from vaex.modules.vae import VAEModule

__all__ = ["VAEModule"]
