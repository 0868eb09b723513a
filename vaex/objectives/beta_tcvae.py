"""The beta-TCVAE: the KL is taken apart, and its total correlation weighted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaex.errors import VaexError, unknown
from vaex.objectives.codes import all_codes, check_weights
from vaex.objectives.elbo import ELBO, elbo_terms
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.types import Batch, VAEOutput

ESTIMATORS = ("weighted", "stratified")
"""How q(z) is estimated from a batch: minibatch-weighted or minibatch-stratified sampling."""


class Decomposition(NamedTuple):
    """The KL of the aggregate posterior in three parts, each () in nats."""

    mutual_information: Tensor  # I(x; z) = E[log q(z|x) - log q(z)]
    total_correlation: Tensor  # KL(q(z) || prod_d q(z_d))
    dimension_wise_kl: Tensor  # sum_d KL(q(z_d) || p(z_d))


def log_weights(count: int, dataset_size: int, estimator: str = "weighted") -> Tensor:
    """Return log w_ij so that q(z_i) is estimated by sum_j w_ij q(z_i|x_j), for a batch of ``count``: (B, B).

    ``weighted`` gives each image 1 / (N B), a lower bound in expectation; ``stratified`` 1 / N to the own image,
    (N - M) / (N M) to one other and 1 / M to the rest, M = B - 1, which is unbiased.

    Source: Chen et al., NeurIPS 2018, Eq. S5 (weighted) and S8 (stratified) in appendix C.
    Differs: the released code of the stratified weights fills the first two columns, where the paper has the diagonal.

    Raises:
        VaexError: for an unknown estimator, a batch of one, or a data set smaller than the batch.
    """
    if estimator not in ESTIMATORS:
        raise unknown("objective.estimator", estimator, ESTIMATORS)
    if count < 2 or dataset_size < count:
        raise VaexError(
            f"The total correlation is estimated from a batch of 2 images or more out of at least as many, got a batch "
            f"of {count} out of objective.dataset_size={dataset_size}; correct the one or the other."
        )
    if estimator == "weighted":
        return torch.full((count, count), -math.log(dataset_size * count), dtype=torch.float64)
    others = count - 1
    weights = torch.full((count, count), 1 / others, dtype=torch.float64)
    own = torch.arange(count)
    weights[own, own] = 1 / dataset_size
    weights[own, (own + 1) % count] = (dataset_size - others) / (dataset_size * others)
    return weights.log()


def decomposition(
    z: Tensor, mean: Tensor, logvar: Tensor, dataset_size: int, estimator: str = "weighted"
) -> Decomposition:
    """Return the parts of the KL for draws ``z`` of N(``mean``, exp(``logvar``)), each (B, D), against N(0, I).

    Their sum is the mean of log q(z|x) - log p(z), whatever the estimator. With ``weighted`` the total correlation is
    too high, by up to (D - 1) log N where the code says nothing: compare its values for one N and B. Takes O(B^2 D)
    time and memory.

    Source: Chen et al., "Isolating Sources of Disentanglement in VAEs", NeurIPS 2018, Eq. 2.
    """
    squared = (z[:, None] - mean[None]).square() * torch.exp(-logvar)  # (B, B, D): draw, image, latent
    densities = -0.5 * (squared + logvar + math.log(2 * math.pi))
    weights = log_weights(len(z), dataset_size, estimator).to(densities)  # (B, B)
    joint = torch.logsumexp(weights + densities.sum(2), 1)  # (B,) log q(z)
    marginals = torch.logsumexp(weights[..., None] + densities, 1).sum(1)  # (B,) log prod_d q(z_d)
    own = densities.diagonal().sum(0)  # (B,) log q(z|x)
    prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)  # (B,)
    return Decomposition((own - joint).mean(), (joint - marginals).mean(), (marginals - prior).mean())


class BetaTCVAE(ELBO):
    """Reconstruction + ``alpha`` I(x; z) + ``beta`` TC + ``gamma`` sum_d KL(q(z_d) || p(z_d)).

    Computed as reconstruction + KL + (alpha - 1) I + (beta - 1) TC + (gamma - 1) dimension-wise KL, with the KL in
    closed form. ``dataset_size`` is N, the number of training images; `VAEModule` asks the data where it is None.
    ``warmup`` is the factor of all but the reconstruction, ``free_bits`` are nats per latent of the KL. Its parts are
    those of the ELBO and of `Decomposition`. The codes of all processes are taken together.

    Source: Chen et al., "Isolating Sources of Disentanglement in VAEs", NeurIPS 2018, Eq. 4; beta = 6 is what its
    released code is run with on dSprites.
    Differs: the paper estimates the whole KL from draws; disentanglement_lib has the form above with alpha = gamma = 1.

    Raises:
        VaexError: for a negative weight, an unknown estimator or a size below 2; for latent grids and batches of one.
    """

    least = 2

    def __init__(
        self,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        estimator: str = "weighted",
        dataset_size: int | None = None,
        warmup: Mapping[str, Any] | None = None,
        free_bits: float = 0.0,
    ) -> None:
        check_weights(beta=beta, alpha=alpha, gamma=gamma)
        if estimator not in ESTIMATORS:
            raise unknown("objective.estimator", estimator, ESTIMATORS)
        size: Any = dataset_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, Integral) or size < 2):
            raise VaexError(f"objective.dataset_size must be a number of images of 2 or more, or null, got {size!r}.")
        super().__init__(warmup=warmup, free_bits=free_bits)
        self.weights = Decomposition(alpha, beta, gamma)  # type: ignore[arg-type] # numbers in their places
        self.estimator, self.dataset_size = estimator, dataset_size

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms at optimiser step ``step``.

        Raises:
            VaexError: without a ``dataset_size``, for latent grids, and for a batch of one image.
        """
        if self.dataset_size is None:
            raise VaexError("objective=beta_tcvae needs the number of training images; set objective.dataset_size.")
        factor = self.warmup(step)
        total, parts = elbo_terms(images, output, factor, self.free_bits, step)
        z, mean, logvar = (all_codes(part, "beta_tcvae", step) for part in (output.z, *output.posterior))
        size = (
            self.dataset_size if step != AFTER_TRAINING else max(self.dataset_size, len(z))
        )  # their batches are larger
        found = decomposition(z, mean, logvar, size, self.estimator)
        for weight, value in zip(self.weights, found, strict=True):
            total = total + factor * (weight - 1) * value
        beta = parts["beta"] * self.weights.total_correlation
        return Terms(total, {**parts, **found._asdict(), "beta": beta})
