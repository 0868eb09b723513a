"""What is differentiated: scalars of the code, one map for each.

| target | T | its map shows where the image ... | for the question |
|---|---|---|---|
| mean | D | moves the code of a latent up | what does this latent look at? |
| sample | D | the same for draws of z, noise included | as the paper's figure 2 |
| logvar | D | makes the encoder less certain of a latent | where is it unsure? |
| kl | D | makes a latent depart from the prior | which evidence is stored? (no sign) |
| sum | 1 | moves the sum of all latents up | the released code's map |
| total_kl | 1 | makes the code depart from the prior | how unusual is this part? |
| normal_difference | D | draws the code away from normal ones (Eq. 4) | the paper's anomaly maps |
| mahalanobis | 1 | takes the code far from the normal codes | why is this image anomalous? |
| neg_elbo | 1 | makes the image cost more nats | what does the model find unlikely? |
| kinds | G | looks like a kind of defect, by the latents of that kind | what is wrong here? |
| a callable | T | raises what you compute from the output | your own |

The sign of a latent is arbitrary, so maps of ``mean``, ``sample``, ``sum`` and ``normal_difference`` depend on it once
rectified; those of the others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaex.attention.checks import at_least, check_instance, not_negative
from vaex.attention.gradients import summable
from vaex.attention.groups import KindsKL
from vaex.attention.normal import codes_for
from vaex.attention.target import Seen, Target, seeded_noise
from vaex.checked import call_checked
from vaex.errors import VaexError, unknown
from vaex.types import NormalCodes, Posterior


@dataclass(frozen=True)
class Mean(Target):
    """The posterior mean: where the image moves the code of a latent up; the paper's question with mu for z."""

    def values(self, seen: Seen) -> Tensor:
        """Return (B, D)."""
        return seen.reduce(summable(seen.code.mean))


@dataclass(frozen=True)
class Sum(Mean):
    """The sum of all posterior means: the released code's score."""

    total = True


@dataclass(frozen=True)
class LogVar(Target):
    """The log-variance: where the image makes the encoder less certain of a latent."""

    def values(self, seen: Seen) -> Tensor:
        """Return (B, D)."""
        return seen.reduce(summable(seen.code.need_logvar("target 'logvar'")))  # a grid's sum outgrows fp16


@dataclass(frozen=True)
class KL(Target):
    """KL to the prior N(0, 1) in nats: where the image makes a latent depart from it, whichever its sign."""

    def values(self, seen: Seen) -> Tensor:
        """Return (B, D)."""
        return seen.reduce(Posterior(seen.code.mean, seen.code.need_logvar("target 'kl'")).kl_to_normal())


@dataclass(frozen=True)
class TotalKL(KL):
    """KL of the whole code to the prior in nats: where the image makes it unusual."""

    total = True


@dataclass(frozen=True)
class Sample(Target):
    """``n`` seeded draws z = mu + sigma eps, whose rectified maps are averaged: the paper's figure 2.

    Raises:
        VaexError: for ``n`` below 1.
    """

    n: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("target 'sample' needs a whole number n of at least 1 draw", self.n, 1)
        at_least("target 'sample' needs a seed >= 0, a whole number", self.seed, 0)

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Number of draws."""
        return self.n

    def values(self, seen: Seen) -> Tensor:
        """Return (n B, D)."""
        mean, logvar = map(summable, (seen.code.mean, seen.code.need_logvar("target 'sample'")))
        spread = torch.exp(0.5 * logvar)
        return torch.cat([seen.reduce(mean + spread * noise) for noise in seeded_noise(self.n, mean, self.seed)])


@dataclass(frozen=True)
class NormalDifference(Target):
    """u ~ N(mu_normal - mu, s_normal^2 + s^2), drawn ``n`` times: the paper's anomaly attention.

    ``codes`` are those of normal images (default: what calibration left in the model). mu_normal drops out of the
    gradient, so without noise the map is that of ``mean`` with the other sign; the noise adds the map of sigma.
    s_normal^2 is the variance of the aggregate posterior: that of the means plus the mean of the variances. Of a latent
    grid, mu and s^2 are those of the reduced code.

    Source: Liu et al., CVPR 2020, Eq. 4.

    Raises:
        VaexError: for ``n`` below 1; a model without calibration; codes of other latents, or of a grid that was reduced
            in another way.
    """

    calibrated = True
    codes: NormalCodes | None = None
    n: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("target 'normal_difference' needs a whole number n of at least 1 draw", self.n, 1)
        at_least("target 'normal_difference' needs a seed >= 0, a whole number", self.seed, 0)

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Number of draws."""
        return self.n

    def values(self, seen: Seen) -> Tensor:
        """Return (n B, D)."""
        codes = codes_for(self.codes, seen)
        mean, variance = (
            seen.reduce(summable(seen.code.mean)),
            seen.variance(summable(seen.code.need_logvar("target 'normal_difference'"))),
        )
        centre, own = codes.mean.to(mean), (codes.covariance.diagonal() + codes.variance).to(mean)
        spread = torch.sqrt(own + variance)
        return torch.cat([centre - mean + spread * noise for noise in seeded_noise(self.n, mean, self.seed)])


@dataclass(frozen=True)
class Mahalanobis(Target):
    """Squared Mahalanobis distance of the code to the normal codes: where the image takes it far from them.

    ``ridge``, as a share of the mean variance, is added to the diagonal of the covariance, which collapsed latents
    would leave singular.

    Source: Mahalanobis, 1936; for features of images Rippel et al., ICPR 2020.

    Raises:
        VaexError: for a model without calibration; codes of other latents, or of a grid that was reduced in another
            way; a negative ridge, or one of 0 where the covariance is singular.
    """

    single = True
    calibrated = True
    codes: NormalCodes | None = None
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        not_negative("ridge of target 'mahalanobis'", self.ridge)

    def values(self, seen: Seen) -> Tensor:
        """Return (B, 1)."""
        # half precision has no solver
        codes, mean = codes_for(self.codes, seen), summable(seen.reduce(seen.code.mean))
        covariance = codes.covariance.to(mean)
        ridge = self.ridge * covariance.diagonal().mean().clamp(min=1e-12)
        away = mean - codes.mean.to(mean)
        try:
            solved = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).to(mean), away.T).T
        except torch.linalg.LinAlgError as error:
            raise VaexError(
                "The covariance of the normal codes is singular, since a latent has collapsed; give target "
                "'mahalanobis' a ridge above 0 (default 0.001)."
            ) from error
        squared: Tensor = (away * solved).sum(1, keepdim=True)
        return squared


@dataclass(frozen=True)
class NegELBO(Target):
    """-log p(x|z = mu) + KL in nats: where the image makes itself unlikely through its code.

    The pixels it is compared with are constants, so the map tells what the code does, not what the error is.

    Source: Kingma & Welling, ICLR 2014, Eq. 10.

    Raises:
        VaexError: for a model whose ``decode`` does not state a likelihood.
    """

    single = True

    def values(self, seen: Seen) -> Tensor:
        """Return (B, 1)."""
        likelihood: Any = seen.model.decode(seen.code.mean) if hasattr(seen.model, "decode") else None
        if not hasattr(likelihood, "log_prob") or seen.images is None:
            raise VaexError(
                "target 'neg_elbo' needs a VAE whose decode(z) returns a likelihood with log_prob(images), as vaex's "
                "do; write a callable target for another model."
            )
        kl = Posterior(seen.code.mean, seen.code.need_logvar("target 'neg_elbo'")).kl_to_normal()
        read = getattr(likelihood, "read", None)  # of a feature VAE: raw features have the shape of whitened ones
        total: Tensor = kl.flatten(1).sum(1) - likelihood.log_prob(seen.images if read is None else read(seen.images))
        return total[:, None]


TARGETS: dict[str, type[Target]] = {
    "mean": Mean,
    "sample": Sample,
    "logvar": LogVar,
    "kl": KL,
    "sum": Sum,
    "total_kl": TotalKL,
    "normal_difference": NormalDifference,
    "mahalanobis": Mahalanobis,
    "neg_elbo": NegELBO,
    "kinds": KindsKL,
}
"""Targets by name."""

TargetLike = str | Mapping[str, Any] | Target | Callable[[Any], Tensor]


def target_named(target: TargetLike) -> Target | Callable[[Any], Tensor]:
    """Return a target by its name, by a mapping of name and parameters, or as it is."""
    check_instance("target", target)
    if isinstance(target, Target) or callable(target):
        return target
    options = dict(target) if isinstance(target, Mapping) else {"name": target}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in TARGETS:
        raise unknown("attention target", str(name), TARGETS)
    found: Target = call_checked(f"attention target '{name}'", TARGETS[name], options)
    return found
