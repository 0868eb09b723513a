"""Threshold-free measures of a score against binary labels, exact for every scale of the score."""

from __future__ import annotations

import torch
from torch import Tensor

from vaex.errors import VaexError


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Return the chance that a positive scores above a negative, ties counting one half: in [0, 1].

    ``scores`` (N,) on any scale, infinities included: only their order matters, there is no sigmoid and no binning.
    ``labels`` (N,) of 0 and 1. NaN when there are no positives or no negatives, for then nothing can be ranked.
    O(N log N) time, O(N) memory; scores are compared in float64 and ranks are summed as integers, so nothing is rounded
    before the last division.

    Raises:
        VaexError: shapes differ, a label is not 0 or 1, or scores are NaN (the message says how many).

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve"; Mann and Whitney's U.
    Differs: scikit-learn raises on infinities and rounds in its trapezoids.
    """
    scores, labels = checked(scores, labels)
    positives, total = int(labels.sum()), labels.numel()
    if positives in (0, total):
        return float("nan")
    ascending, order = scores.sort()
    _, group, counts = torch.unique_consecutive(ascending, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)  # rank of the last of each group of ties, from 1
    twice_mean_rank = (2 * ends - counts + 1)[group]  # doubled, because the mean rank of a tie may be a half
    twice_rank_sum = int(twice_mean_rank[labels[order]].sum())
    return (twice_rank_sum - positives * (positives + 1)) / (2 * positives * (total - positives))


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the sum over distinct thresholds of (recall gained) * precision: in [0, 1], and the base rate by chance.

    ``scores`` (N,) on any scale, infinities included; ``labels`` (N,) of 0 and 1. All images that tie enter at one
    threshold. NaN when there are no positives or no negatives. O(N log N) time, O(N) memory, in float64.

    Raises:
        VaexError: shapes differ, a label is not 0 or 1, or scores are NaN (the message says how many).

    Source: scikit-learn, `sklearn.metrics.average_precision_score`: AP = sum_n (R_n - R_{n-1}) P_n.
    Differs: with one class only scikit-learn returns 0 or 1; that says nothing of the score, so this returns NaN.
    """
    scores, labels = checked(scores, labels)
    positives, total = int(labels.sum()), labels.numel()
    if positives in (0, total):
        return float("nan")
    descending, order = scores.sort(descending=True)
    _, counts = torch.unique_consecutive(descending, return_counts=True)
    ends = counts.cumsum(0)  # how many are called positive at each threshold
    hits = labels[order].cumsum(0)[ends - 1]
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return float((gained.to(scores.dtype) * hits / ends).sum() / positives)


def checked(scores: Tensor, labels: Tensor, name: str = "scores") -> tuple[Tensor, Tensor]:
    """Return the scores as float64 and the labels as bool, both (N,) and without graph; ``name`` is for the messages.

    On a device without float64 both move to the CPU.

    Raises:
        VaexError: shapes differ, a label is not 0 or 1, or scores are NaN (the message says how many).
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise VaexError(
            f"The shape of {name} is {tuple(scores.shape)} and that of the labels {tuple(labels.shape)}: both must be "
            "(N,), one number per label."
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise VaexError("Labels must be 0 (normal) or 1 (anomalous), but other values were given: map them first.")
    if missing := int(scores.isnan().sum()):
        raise VaexError(
            f"{missing} of {scores.numel()} values of {name} are NaN and cannot be ranked: look for a diverged model "
            "or a division by zero in the score."
        )
    device = torch.device("cpu") if scores.device.type == "mps" else scores.device
    return scores.detach().to(device).double(), labels.detach().to(device).bool()
