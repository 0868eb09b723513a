"""How well factors are predicted from one latent by a straight cut (SAP), and from all of them (explicitness)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vaex.errors import VaexError
from vaex.metrics.disentanglement.pruning import COLLAPSED, pruned_table
from vaex.metrics.disentanglement.table import TEST, TRAIN, Floats, Integers, Split, drawn
from vaex.metrics.ranking import auroc

MARGIN = 0.01
"""The support vector machine's C, small for speed as in disentanglement_lib."""
FLAT = 1e-12
"""A latent of a smaller variance explains nothing."""


def explained_variance(split: Split) -> Floats:
    """Return the squared correlation (D, F) of each latent with the class of each factor, in [0, 1]."""
    codes, classes = (values - values.mean(0) for values in split.train[:2])
    products = codes.T @ classes
    own, others = (codes**2).sum(0), (classes**2).sum(0)
    flat = own / (len(codes) - 1) <= FLAT
    share: Floats = products**2 / np.where(flat, 1.0, own)[:, None] / others
    share[flat] = 0
    return share


def cut_accuracies(split: Split) -> Floats:
    """Return the test accuracy (D, F) of a linear support vector machine that sees one latent, classes balanced."""
    from sklearn.svm import LinearSVC

    train, test = split
    found = np.empty((train.codes.shape[1], train.classes.shape[1]))
    for latent in range(found.shape[0]):
        for factor in range(found.shape[1]):
            # The primal problem has the same solution as the dual one, whose solver draws at random
            model = LinearSVC(C=MARGIN, class_weight="balanced", dual=False)
            model.fit(train.codes[:, latent, None], train.classes[:, factor])
            predicted = model.predict(test.codes[:, latent, None])
            found[latent, factor] = (predicted == test.classes[:, factor]).mean()
    return found


def top_gap(scores: Floats) -> float:
    """Return the mean over factors of the gap between the best and second best latent of ``scores`` (D, F)."""
    ordered = np.sort(scores, 0)
    return float((ordered[-1] - ordered[-2]).mean())


def sap(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the SAP score of ``codes`` (N, D) and ``factors`` (N, F), in [0, 1]: ``sap`` of `sap_scores`.

    Raises:
        VaexError: as `sap_scores`.
    """
    return top_gap(cut_accuracies(drawn(pruned_table(codes, factors).table, seed)))


def sap_scores(
    codes: Any, factors: Any, seed: int = 0, *, train: int = TRAIN, test: int = TEST, threshold: float = COLLAPSED
) -> dict[str, float]:
    """Return ``sap``, for factors as classes, ``sap_continuous``, for factors as quantities, and a count of latents.

    Each latent alone predicts each factor, from ``train`` images for ``test`` others; the score is the gap in accuracy
    between the two best latents, the mean over factors. ``sap``: a linear support vector machine (C = .01, balanced).
    ``sap_continuous``: squared correlation instead of accuracy. Perfect codes of many values stay far below 1: straight
    cuts, one class against the rest, tell only the outer values apart. ``sap`` depends on scale and shift of codes: C
    holds weight and intercept small. Latents with a standard deviation below
    ``threshold`` predict at chance; they are counted as ``sap_pruned_latents``.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`.

    Source: Kumar et al., "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", ICLR
    2018, section 3; both variants as in disentanglement_lib, whose default for dSprites is the first.
    Differs: the library leaves no latent out.
    """
    pruned = pruned_table(codes, factors, threshold)
    split = drawn(pruned.table, seed, train, test)
    by_cut, by_share = top_gap(cut_accuracies(split)), top_gap(explained_variance(split))
    return {"sap": by_cut, "sap_continuous": by_share, **pruned.counted("sap")}


def logistic(codes: Floats, labels: Integers) -> Any:
    """Return scikit-learn's logistic regression of ``labels`` (N,) on ``codes`` (N, D), fitted to convergence."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # matrices so small are slower in several threads, and very slow on a busy machine
        return LogisticRegression(max_iter=10_000).fit(codes, labels)


def explicitness(split: Split) -> tuple[float, float]:
    """Return the mean area under the ROC curve of logistic regressions of the factors, in training and in test.

    Codes are standardised by the training part; a class that does not occur, or alone, is left out of its mean.

    Raises:
        VaexError: for a factor of which no class is left.
    """
    mean, spread = split.train.codes.mean(0), split.train.codes.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    parts = [((part.codes - mean) / scale, part.classes) for part in split]
    sums = np.zeros(2)
    for factor in range(parts[0][1].shape[1]):
        model = logistic(parts[0][0], parts[0][1][:, factor])
        for place, (codes, classes) in enumerate(parts):
            chances = model.predict_proba(codes)  # (n, classes)
            areas = [
                auroc(torch.from_numpy(chances[:, column]), torch.from_numpy(classes[:, factor] == value))
                for column, value in enumerate(model.classes_)
                if 0 < (classes[:, factor] == value).sum() < len(classes)
            ]
            if not areas:
                raise VaexError(
                    f"Explicitness needs a value of factor {factor} that some of the {len(classes)} images to judge by "
                    f"have and others have not, among those of the {len(parts[0][1])} images fitted to, and there is "
                    "none: encode more images."
                )
            sums[place] += np.mean(areas)
    train, test = sums / parts[0][1].shape[1]
    return float(train), float(test)
