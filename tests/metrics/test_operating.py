"""Points of ROC, PRO and precision-recall curves, against counting pixel by pixel and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import precision_score, recall_score

from vaex.errors import VaexError
from vaex.metrics.operating import MOST, above, chosen_thresholds, image_points, levels, pixel_points, unlabelled_points

RNG = np.random.default_rng(0)


def test_points_of_images_are_those_of_scikit_learn() -> None:
    labels = RNG.integers(0, 2, 60)
    scores = np.round(RNG.normal(size=60) + labels, 1)  # with ties
    points = image_points(scores, labels)
    assert points is not None
    assert set(points.thresholds) == set(scores)  # few enough: every one
    for position, threshold in enumerate(points.thresholds):
        called = scores >= threshold
        assert points.tpr[position] == pytest.approx(recall_score(labels, called))
        assert points.fpr[position] == pytest.approx(called[labels == 0].mean())
        assert points.precision[position] == pytest.approx(precision_score(labels, called))


def test_the_best_threshold_has_the_highest_f1() -> None:
    points = image_points(np.array([0.0, 1, 2, 3]), np.array([0, 1, 0, 1]))
    assert points is not None
    assert points.thresholds[points.best] == 1  # F1: 2/3, 4/5, 1/2, 2/3


def test_regions_count_the_same_whatever_their_size() -> None:
    masks = np.zeros((3, 12, 12), bool)
    masks[0, 1:9, 1:9] = True
    masks[0, 11, 11] = True
    masks[1, 4, 4:6] = True
    maps = RNG.normal(size=masks.shape) + masks
    points = pixel_points(maps, masks)
    assert points is not None
    assert points.pro is not None
    for position in range(0, len(points.thresholds), 17):
        called = maps >= points.thresholds[position]
        shares = []
        for one, mask in zip(called, masks, strict=True):
            regions, count = ndimage.label(mask, np.ones((3, 3)))
            shares += [one[regions == number + 1].mean() for number in range(count)]
        assert len(shares) == 3
        assert points.pro[position] == pytest.approx(np.mean(shares))
        assert points.fpr[position] == pytest.approx(called[~masks].mean())


def test_a_level_says_which_thresholds_a_value_reaches() -> None:
    values = RNG.normal(size=(2, 3000)).astype(np.float32)
    points = image_points(values.ravel(), np.repeat([0, 1], 3000))
    assert points is not None
    assert len(points.thresholds) <= MOST
    level = levels(points.thresholds, values.astype(np.float64))
    for position in (0, 7, 100, len(points.thresholds) - 1):
        assert ((level > position) == (values >= points.thresholds[position])).all()


def test_thresholds_are_denser_where_false_alarms_are_few() -> None:
    normal, anomalous = RNG.normal(size=100_000), RNG.normal(size=100) + 4
    thresholds = chosen_thresholds(normal, anomalous)
    assert len(thresholds) <= MOST
    assert (np.diff(thresholds) > 0).all()
    assert (thresholds > np.quantile(normal, 0.99)).sum() > MOST / 2


def test_nothing_is_drawn_of_one_kind_alone() -> None:
    assert image_points(np.arange(3.0), np.ones(3)) is None
    assert pixel_points(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool)) is None
    with pytest.raises(VaexError, match="one shape"):
        pixel_points(np.zeros((1, 2, 2)), np.zeros((1, 3, 2), bool))


def test_values_that_are_not_finite_are_left_out() -> None:
    points = image_points(np.array([0, np.nan, 1, np.inf]), np.array([0, 0, 1, 1]))
    assert points is not None
    assert points.thresholds.tolist() == [0, 1]


def test_a_threshold_of_ones_own_is_among_them_and_strictly_above() -> None:
    scores, labels = RNG.normal(size=2000), RNG.integers(0, 2, 2000)
    value = float(np.sort(scores)[1700])
    points = image_points(scores, labels, [above(value)])
    assert points is not None
    assert len(points.thresholds) <= MOST
    (position,) = np.flatnonzero(points.thresholds == above(value))
    assert points.fpr[position] == pytest.approx((scores[labels == 0] > value).mean())
    assert points.tpr[position] == pytest.approx((scores[labels == 1] > value).mean())


def test_without_labels_the_share_that_reaches_a_threshold_is_known() -> None:
    values = np.array([[0.0, np.nan], [2.0, 1.0]])
    thresholds, share = unlabelled_points(values, [1.5])
    assert thresholds.tolist() == [0, 1, 1.5, 2]
    assert share.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert levels(thresholds, values).tolist() == [[1, 0], [4, 2]]
