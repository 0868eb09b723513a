"""What z is drawn from: modules with ``log_prob``, ``sample`` and ``kl``."""

from vaex.priors.normal import StandardNormal

__all__ = ["StandardNormal"]
