"""The algorithms as their papers and disentanglement_lib define them, written plainly: loops, one vote at a time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def factor_vote(codes: Array, rows: Array, variances: Array, active: Array) -> int:
    """Which of the active latents varies least over the rows of one vote, relative to its variance over all images."""
    local = codes[rows].var(axis=0, ddof=1)
    return int(np.argmin(local[active] / variances[active]))


def majority_accuracy(train: list[tuple[int, int]], test: list[tuple[int, int]]) -> float:
    """Share of (factor, latent) pairs in which the latent's most frequent factor of ``train`` is the factor."""
    seen: dict[int, Counter[int]] = {}
    for factor, latent in train:
        seen.setdefault(latent, Counter())[factor] += 1
    # ties go to the lower factor; a latent that no vote named stands for the first factor
    meaning = {latent: min(counts, key=lambda k: (-counts[k], k)) for latent, counts in seen.items()}
    return sum(meaning.get(latent, 0) == factor for factor, latent in test) / len(test)


def pair_feature(codes: Array, first: Array, second: Array) -> Array:
    total = np.zeros(codes.shape[1])
    for a, b in zip(first, second, strict=True):
        total += np.abs(codes[a] - codes[b])
    return total / len(first)


def histogram_bins(values: Array, bins: int) -> Array:
    edges = np.histogram(values, bins)[1]
    return np.digitize(values, edges[:-1])


def information(a: Array, b: Array) -> float:
    """Mutual information in nats of two discrete variables, from the definition."""
    joint, left, right = Counter(zip(a.tolist(), b.tolist(), strict=True)), Counter(a.tolist()), Counter(b.tolist())
    total = len(a)
    return sum(count / total * math.log(count * total / (left[x] * right[y])) for (x, y), count in joint.items())


def entropy(values: Array) -> float:
    shares = np.array(list(Counter(values.tolist()).values())) / len(values)
    return float(-(shares * np.log(shares)).sum())


def information_table(codes: Array, factors: Array, bins: int = 20) -> Array:
    discrete = [histogram_bins(column, bins) for column in codes.T]
    return np.array([[information(latent, factor) for factor in factors.T] for latent in discrete])


def mig(codes: Array, factors: Array) -> float:
    table = information_table(codes, factors)
    gaps = []
    for column, factor in zip(table.T, factors.T, strict=True):
        best, second = sorted(column, reverse=True)[:2]
        gaps.append((best - second) / entropy(factor))
    return float(np.mean(gaps))


def modularity(codes: Array, factors: Array) -> float:
    scores = []
    for row in information_table(codes, factors):
        if row.max() <= 0:
            scores.append(0.0)
            continue
        template = np.zeros_like(row)
        template[row.argmax()] = row.max()
        scores.append(1 - ((row - template) ** 2).sum() / (row.max() ** 2 * (len(row) - 1)))
    return float(np.mean(scores))


def sap_matrix(codes: Array, factors: Array, test_codes: Array, test_factors: Array) -> Array:
    from sklearn.svm import LinearSVC

    table = np.zeros((codes.shape[1], factors.shape[1]))
    for latent in range(codes.shape[1]):
        for factor in range(factors.shape[1]):
            # the dual problem, as releases of scikit-learn of the library's time solved it
            model = LinearSVC(C=0.01, class_weight="balanced", dual=True, random_state=0, max_iter=20_000)
            model.fit(codes[:, [latent]], factors[:, factor])
            table[latent, factor] = model.score(test_codes[:, [latent]], test_factors[:, factor])
    return table


def correlation_matrix(codes: Array, factors: Array) -> Array:
    table = np.zeros((codes.shape[1], factors.shape[1]))
    for latent, code in enumerate(codes.T):
        for factor, values in enumerate(factors.T):
            if code.var(ddof=1) > 1e-12:
                table[latent, factor] = np.corrcoef(code, values)[0, 1] ** 2
    return table


def top_two_gap(table: Array) -> float:
    return float(np.mean([sorted(column)[-1] - sorted(column)[-2] for column in table.T]))


def dci(importance: Array) -> tuple[float, float]:
    """Disentanglement and completeness of importances (latents, factors)."""
    from scipy.stats import entropy as scipy_entropy

    def score(matrix: Array) -> float:
        each = 1 - scipy_entropy(matrix.T + 1e-11, base=matrix.shape[1])
        if matrix.sum() == 0:
            matrix = np.ones_like(matrix)
        return float((each * matrix.sum(1) / matrix.sum()).sum())

    return score(importance), score(importance.T)


def explicitness(codes: Array, factors: Array, test_codes: Array, test_factors: Array) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import label_binarize

    mean, spread = codes.mean(0), codes.std(0)
    scores = []
    for factor in range(factors.shape[1]):
        model = LogisticRegression(max_iter=10_000).fit((codes - mean) / spread, factors[:, factor])
        chances = model.predict_proba((test_codes - mean) / spread)
        truth = label_binarize(test_factors[:, factor], classes=model.classes_)
        if truth.shape[1] == 1:
            truth = np.hstack([1 - truth, truth])
        scores.append(roc_auc_score(truth, chances, average="macro"))
    return float(np.mean(scores))


def irs(codes: Array, factors: Array, bins: int = 20, quantile: float = 0.99) -> float:
    codes = codes[:, codes.var(0) > 0]
    if codes.shape[1] == 0:
        return 0.0
    largest = np.abs(codes - codes.mean(0)).max(0)
    moved = np.zeros((codes.shape[1], factors.shape[1]))
    for place, factor in enumerate(factors.T):
        discrete = histogram_bins(factor.astype(float), bins)
        values = np.unique(discrete)
        for value in values:
            group = codes[discrete == value]
            moved[:, place] += np.percentile(np.abs(group - group.mean(0)), 100 * quantile, axis=0) / len(values)
    robust = 1 - moved / largest[:, None]
    return float((robust.max(1) * largest).sum() / largest.sum())
