"""The importance-weighted bound, as objective and as evaluation: with more draws it nears log p(x) from below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaex.attention.isolation import undisturbed
from vaex.errors import VaexError
from vaex.networks.vae import VAE
from vaex.objectives.elbo import elbo_terms
from vaex.objectives.terms import Terms
from vaex.types import Batch, Likelihood, Posterior, VAEOutput


def log_importance(images: Tensor, likelihood: Likelihood, z: Tensor, posterior: Posterior, prior: Tensor) -> Tensor:
    """Return log p(x|z) + log p(z) - log q(z|x) in nats, (B,), for draws ``z`` (B, D) or (B, D, h, w).

    ``prior`` is log p(z) per latent, shaped like ``z``.
    """
    mean, logvar, z, prior = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (*posterior, z, prior))
    density = -0.5 * ((z - mean).square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi))
    return likelihood.log_prob(images) + (prior - density).flatten(1).sum(1)


@torch.no_grad()
def iwae_bound(model: VAE, images: Tensor, samples: int = 100, generator: torch.Generator | None = None) -> Tensor:
    """Return log 1/K sum_k p(x, z_k) / q(z_k|x) with K = ``samples`` draws, (B,) in nats: at most log p(x) on average.

    Takes ``images`` (B, C, H, W); the memory is that of one draw. Without a ``generator`` the random stream stays as it
    was, and so the same draws come again.

    Source: Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, Eq. 8.

    Raises:
        VaexError: for fewer than one draw.
    """
    if samples < 1:
        raise VaexError(f"The importance-weighted bound takes 1 draw or more, got samples={samples}.")
    with undisturbed(model, images) as pixels:
        posterior = model.encode(pixels)
        total: Tensor | None = None
        for _ in range(samples):
            z = posterior.sample(generator)
            found = log_importance(pixels, model.decode(z), z, posterior, model.prior.log_prob(z))
            total = found if total is None else torch.logaddexp(total, found)
        if total is None:  # for the type checker
            raise VaexError("There are no draws.")
        return total - math.log(samples)


class IWAE:
    """-log 1/K sum_k p(x, z_k) / q(z_k|x), K = ``samples``; with K = 1 the ELBO with its KL estimated from the draw.

    The output's z is the first draw, so the VAE must have sampled; K - 1 more are decoded here, which takes their time
    and memory. Its parts are ``iwae`` (the negative bound), and reconstruction and KL as the ELBO has them. No warm-up
    and no free bits: weights inside the logarithm would make it no bound. Codes may be latent grids.

    Source: Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, Eq. 8; K = 1, 5 and 50 there.

    Raises:
        VaexError: for fewer than one draw.
    """

    keep: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __init__(self, samples: int = 5) -> None:
        if samples < 1:
            raise VaexError(f"objective.samples must be at least 1, got {samples}.")
        self.samples = samples
        self.model: VAE | None = None

    def bind(self, model: VAE) -> None:
        """Take the decoder and the prior of ``model``."""
        self.model = model

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms; ``step`` does not matter.

        Raises:
            VaexError: before `bind`.
        """
        model = self.model
        if model is None:
            raise VaexError("objective=iwae decodes more draws: give the model to build_objective too.")
        parts = elbo_terms(images, output).parts
        del parts["beta"]
        found = []
        for number in range(self.samples):
            z = output.posterior.sample() if number else output.z
            likelihood: Likelihood = self._decoded(model, z, output) if number else output.likelihood
            found.append(log_importance(images, likelihood, z, output.posterior, model.prior.log_prob(z)))
        bound = torch.logsumexp(torch.stack(found), 0) - math.log(self.samples)  # (B,)
        return Terms(-bound.mean(), {**parts, "iwae": -bound.mean()})

    @staticmethod
    def _decoded(model: VAE, z: Tensor, output: VAEOutput) -> Likelihood:
        likelihood = model.decode(z)
        target = getattr(output.likelihood, "target", None)  # features of the images, which a feature VAE knows already
        return likelihood if target is None else likelihood._replace(target=target)  # type: ignore[call-arg]
