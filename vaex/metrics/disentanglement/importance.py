"""DCI: what tree ensembles that predict the factors look at. Disentanglement, completeness, informativeness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vaex.errors import VaexError
from vaex.metrics.disentanglement.pruning import COLLAPSED, Pruned, pruned_table
from vaex.metrics.disentanglement.table import TEST, TRAIN, Floats, Split, drawn, is_whole

TINY = 1e-11


def concentration(rows: Floats) -> Floats:
    """Return 1 - H(p) / log n of each row (n,) of non-negative numbers, as shares p of their sum: 1 where one is all.

    A row of zeros counts as spread evenly. With a single column there is nothing to be concentrated on: 1.
    """
    if rows.shape[1] < 2:
        return np.ones(len(rows))
    shares = rows + TINY
    shares = shares / shares.sum(1, keepdims=True)
    entropy: Floats = -(shares * np.log(shares)).sum(1) / np.log(rows.shape[1])
    return np.maximum(1 - entropy, 0.0)  # rounding may leave less where all are equal


def weighted(importance: Floats) -> float:
    """Return the concentration of the rows of ``importance``, weighted by their sums; evenly where all are zero."""
    weights = importance.sum(1)
    if weights.sum() == 0:
        weights = np.ones(len(weights))
    return float((concentration(importance) * weights).sum() / weights.sum())


def importances(split: Split, model_of: Callable[[], Any]) -> tuple[Floats, float, float]:
    """Return how much each latent matters to the model of each factor (D, F), and its accuracies in training and test.

    ``model_of`` makes an unfitted classifier of scikit-learn that states ``feature_importances_``.
    """
    columns, accuracies = [], []
    mean = split.train.codes.mean(0)  # trees read float32, which of codes far from zero has no digit left
    parts = [(part.codes - mean, part.classes) for part in split]
    codes, classes = parts[0]
    for factor in range(classes.shape[1]):
        model = model_of().fit(codes, classes[:, factor])
        columns.append(np.abs(model.feature_importances_))
        accuracies.append([model.score(part, labels[:, factor]) for part, labels in parts])
    train, test = np.mean(accuracies, 0)
    return np.stack(columns, 1), float(train), float(test)


def _scores(name: str, pruned: Pruned, split: Split, model_of: Callable[[], Any]) -> dict[str, float]:
    importance, train, test = importances(split, model_of)
    return {
        name: weighted(importance),
        f"{name}_completeness": weighted(importance.T),
        f"{name}_informativeness": test,
        f"{name}_informativeness_train": train,
        **pruned.counted(name),
    }


def dci(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the disentanglement of DCI by gradient boosting, in [0, 1]; takes minutes. See `dci_scores`.

    Raises:
        VaexError: as `dci_scores`.
    """
    return dci_scores(codes, factors, seed)["dci"]


def dci_scores(
    codes: Any, factors: Any, seed: int = 0, *, train: int = TRAIN, test: int = TEST, threshold: float = COLLAPSED
) -> dict[str, float]:
    """Return ``dci`` (disentanglement), ``dci_completeness``, ``dci_informativeness`` and the latter in training.

    Gradient boosted trees (scikit-learn's defaults) predict each factor of ``codes`` (N, D) from all latents. Of their
    importances, a latent's disentanglement is 1 - entropy over factors, weighted by its importance, and a factor's
    completeness 1 - entropy over latents; informativeness is the accuracy on ``test`` other images. For 10,000 images
    of dSprites this takes minutes: `dci_forest_scores` takes seconds, and is another number. Latents with a standard
    deviation below ``threshold`` have no importance; they are counted as ``dci_pruned_latents``. Completeness is a
    share of the entropy over all latents, pruned or not.

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`.

    Source: Eastwood & Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations", ICLR
    2018; trees, entropies and accuracy as in disentanglement_lib.
    Differs: the library leaves no latent out.
    """
    from sklearn.ensemble import GradientBoostingClassifier

    pruned = pruned_table(codes, factors, threshold)
    split = drawn(pruned.table, seed, train, test)
    return _scores("dci", pruned, split, lambda: GradientBoostingClassifier(random_state=seed))


def dci_forest(codes: Any, factors: Any, seed: int = 0) -> float:
    """Return the disentanglement of DCI by random forest, in [0, 1]. See `dci_forest_scores`.

    Raises:
        VaexError: as `dci_forest_scores`.
    """
    return dci_forest_scores(codes, factors, seed)["dci_forest"]


def dci_forest_scores(
    codes: Any,
    factors: Any,
    seed: int = 0,
    *,
    train: int = TRAIN,
    test: int = TEST,
    trees: int = 30,
    leaf: int = 20,
    threshold: float = COLLAPSED,
) -> dict[str, float]:
    """Return what `dci_scores` does, by random forests, under names that begin with ``dci_forest``.

    Forests of ``trees`` trees that may split by any latent, with at least ``leaf`` images in a leaf: scikit-learn's
    own defaults split by few latents at a time down to single images, and then find importance where there is none
    (perfect codes of dSprites: .60 instead of 1).

    Raises:
        VaexError: as `vaex.metrics.disentanglement.table.code_table`; for fewer than one tree or image in a leaf.

    Differs: the values are not those of boosted trees; never compare them with a published DCI.
    """
    from sklearn.ensemble import RandomForestClassifier

    if not (is_whole(trees, 1) and is_whole(leaf, 1)):
        raise VaexError(f"dci_forest needs trees and leaf of at least 1, got {trees!r} and {leaf!r}.")

    def forest() -> Any:  # the number of processes changes no value
        options = {"min_samples_leaf": leaf, "max_features": None, "random_state": seed, "n_jobs": -1}
        return RandomForestClassifier(trees, **options)

    pruned = pruned_table(codes, factors, threshold)
    return _scores("dci_forest", pruned, drawn(pruned.table, seed, train, test), forest)
