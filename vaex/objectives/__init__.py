"""What is minimised: pure functions of (images, output, step) that return named terms in nats per image."""

from vaex.objectives.beta_vae import BetaVAE
from vaex.objectives.elbo import ELBO
from vaex.objectives.factor_vae import FactorVAE
from vaex.objectives.terms import Terms

__all__ = ["ELBO", "BetaVAE", "FactorVAE", "Terms"]
