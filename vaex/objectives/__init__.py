"""What is minimised: pure functions of (images, output, step) that return named terms in nats per image."""

from vaex.objectives.annealed_vae import AnnealedVAE
from vaex.objectives.beta_tcvae import BetaTCVAE
from vaex.objectives.beta_vae import BetaVAE
from vaex.objectives.dip_vae import DIPVAEI, DIPVAEII
from vaex.objectives.elbo import ELBO
from vaex.objectives.factor_vae import FactorVAE
from vaex.objectives.info_vae import InfoVAE
from vaex.objectives.iwae import IWAE
from vaex.objectives.terms import Terms

__all__ = [
    "DIPVAEI",
    "DIPVAEII",
    "ELBO",
    "IWAE",
    "AnnealedVAE",
    "BetaTCVAE",
    "BetaVAE",
    "FactorVAE",
    "InfoVAE",
    "Terms",
]
