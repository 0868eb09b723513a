"""FactorVAE score and beta-VAE score: guess from batches of codes which factor their images share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError
from vaex.metrics.disentanglement.predictors import logistic
from vaex.metrics.disentanglement.pruning import COLLAPSED, pruned_table, used_latents, variance
from vaex.metrics.disentanglement.table import (
    TEST,
    TRAIN,
    CodeTable,
    Floats,
    Integers,
    RowDraws,
    code_table,
    is_whole,
    seeded,
)

BATCH = 64
Singles = NDArray[np.float32]
CHUNK = 256
"""Votes at a time: their codes stay in the processor's cache."""


def centred(codes: Floats) -> tuple[Singles, Floats]:
    """Return the latents of ``codes`` (N, D) less their means, (D, N) in float32, and their variances (D,), N - 1.

    The variance of a latent that is constant is exactly 0.
    """
    offsets, variances = np.empty(codes.shape[::-1], np.float32), np.zeros(codes.shape[1])
    for latent, column in enumerate(codes.T):
        offset = column - column.mean()
        offsets[latent], variances[latent] = offset, variance(column, offset)
    return offsets, variances


def least_varying(offsets: Singles, rows: Integers, variances: Floats) -> Integers:
    """Return for each vote the latent (V,) whose variance over the vote's ``rows`` (V, L) is the least part of its own.

    ``offsets`` (D, N) and ``variances`` (D,) > 0 as of `centred`. Of equals the first one wins.
    """
    shares = np.empty((len(variances), len(rows)))
    for latent, column in enumerate(offsets):  # fits the processor's cache, and sums over the last axis are fast
        part = column.take(rows)  # (V, L)
        part -= part[:, :1].copy()  # equal codes then have a variance of exactly 0
        total = part.sum(1)
        squares = np.einsum("vl,vl->v", part, part)
        shares[latent] = (squares - total * total / part.shape[1]) / variances[latent]
    return np.asarray(shares.argmin(0), np.int64)


def vote_table(factors: Integers, latents: Integers, shape: tuple[int, int]) -> Integers:
    """Return how many votes for each latent came from each factor, (F, D)."""
    flat = np.bincount(factors * shape[1] + latents, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(np.int64)


def _checked(votes: Any, batch: Any, table: CodeTable) -> None:
    two = isinstance(votes, Sequence) and len(votes) == 2 and all(is_whole(count, 1) for count in votes)
    if not two or not is_whole(batch, 2):
        raise VaexError(
            "Votes need batches of at least 2 images and two numbers of votes, at least 1 vote to fit to and 1 to "
            f"judge by, as votes=(10000, 5000), got batch={batch!r} and votes={votes!r}."
        )
    if len(table.codes) < batch:
        raise VaexError(
            f"A vote looks at {batch} images, but there are the codes of {len(table.codes)}: encode more images, or "
            "lower batch."
        )


def factor_vae(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the FactorVAE score of ``codes`` (N, D) and ``factors`` (N, F): accuracy in [0, 1], see below.

    Raises:
        VaexError: as `factor_vae_scores`.
    """
    return factor_vae_scores(codes, factors, seed)["factor_vae"]


def factor_vae_scores(
    codes: Any,
    factors: Any,
    seed: int = 0,
    *,
    votes: tuple[int, int] = (TRAIN, TEST),
    batch: int = BATCH,
    threshold: float = COLLAPSED,
) -> dict[str, float]:
    """Return the FactorVAE score, its accuracy on the votes it was fitted to, and how many latents are in use.

    A vote looks at ``batch`` images that share one factor, and names the latent of the least variance relative to that
    over all images. Each latent stands for the factor of most of its ``votes[0]`` votes; ``factor_vae`` is the share
    of ``votes[1]`` others that it is right about. Latents with a standard deviation below ``threshold`` take no part;
    where all are collapsed the score is 0. Keys: ``factor_vae factor_vae_train factor_vae_active_latents
    factor_vae_pruned_latents``.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`; for fewer images than a vote needs.

    Source: Kim & Mnih, "Disentangling by Factorising", ICML 2018, section 4; sizes, threshold and the second set of
    votes as in disentanglement_lib.
    Differs: the variance over all images is that of all rows, not of 10,000 drawn ones; see also `RowDraws`.
    """
    table = code_table(codes, factors)
    _checked(votes, batch, table)
    draws, generator = RowDraws(table, batch), seeded(seed, 1)  # too few images are told whatever the codes are
    offsets, variances = centred(table.codes)
    active = used_latents(variances, threshold)
    counts = {
        "factor_vae_active_latents": float(active.sum()),
        "factor_vae_pruned_latents": float((~active).sum()),
    }
    if not active.any():
        return {"factor_vae": 0.0, "factor_vae_train": 0.0, **counts}
    # Powers of two change no digit, and keep the squares of large codes within float32
    exponents = np.rint(0.5 * np.log2(variances[active])).astype(np.int32)
    used, own = np.ldexp(offsets[active], -exponents[:, None]), np.ldexp(variances[active], -2 * exponents)
    shape = (table.classes.shape[1], len(used))
    tables = []
    for count in votes:
        fixed, rows = draws.votes(generator, count, batch)
        tables.append(vote_table(fixed, least_varying(used, rows, own), shape))
    meaning = tables[0].argmax(0)  # (D,) the factor that a latent stands for
    train, test = (float(t[meaning, np.arange(shape[1])].sum() / t.sum()) for t in tables)
    return {"factor_vae": test, "factor_vae_train": train, **counts}


def mean_distances(codes: Floats, first: Integers, second: Integers) -> Floats:
    """Return the mean absolute difference (V, D) of the codes (N, D) of pairs of rows, each (V, L)."""
    found = np.empty((len(first), codes.shape[1]))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        difference = codes[first[part]]
        difference -= codes[second[part]]
        np.abs(difference, out=difference)
        difference.mean(1, out=found[part])
    return found


def beta_vae(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the beta-VAE score of ``codes`` (N, D) and ``factors`` (N, F): accuracy in [0, 1], see below.

    Raises:
        VaexError: as `beta_vae_scores`.
    """
    return beta_vae_scores(codes, factors, seed)["beta_vae"]


def beta_vae_scores(
    codes: Any,
    factors: Any,
    seed: int = 0,
    *,
    votes: tuple[int, int] = (TRAIN, TEST),
    batch: int = BATCH,
    threshold: float = COLLAPSED,
) -> dict[str, float]:
    """Return the beta-VAE score, its accuracy on the points it was fitted to, and how many latents were left out.

    A point is the mean absolute difference of the codes of ``batch`` pairs of images that share one factor; logistic
    regression fitted to ``votes[0]`` points guesses the factor of ``votes[1]`` others. Chance is 1 / F. Latents with a
    standard deviation below ``threshold`` take no part. Keys: ``beta_vae beta_vae_train beta_vae_pruned_latents``.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`; for fewer images than a point needs.

    Source: Higgins et al., "beta-VAE", ICLR 2017, section 3, as in disentanglement_lib.
    Differs: scikit-learn's multinomial regression, where the library's release fitted one factor against the rest;
    collapsed latents are left out.
    """
    pruned = pruned_table(codes, factors, threshold)
    table, count_of_pruned = pruned.table, pruned.counted("beta_vae")
    _checked(votes, batch, table)
    draws, generator = RowDraws(table, 1), seeded(seed, 2)
    points: list[tuple[NDArray[np.float64], Integers]] = []
    for count in votes:
        fixed, first, second = draws.pairs(generator, count, batch)
        points.append((mean_distances(table.codes, first, second), fixed))
    (train, of_train), (_, of_test) = points
    if len(np.unique(of_train)) < 2:  # one factor, or so few votes that one was drawn
        only = of_train[0]
        return {"beta_vae": float((of_test == only).mean()), "beta_vae_train": 1.0, **count_of_pruned}
    model = logistic(train, of_train)
    on_train, on_test = (float(model.score(*part)) for part in points)
    return {"beta_vae": on_test, "beta_vae_train": on_train, **count_of_pruned}
