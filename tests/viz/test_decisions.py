"""The picture of a decision: its size, where the boxes are, and what is drawn below."""

from __future__ import annotations

import numpy as np

from vaex.viz import overlay
from vaex.viz.decisions import BOX, LONGEST, decision_picture


def test_without_boxes_it_is_the_overlay() -> None:
    generator = np.random.default_rng(0)
    image, values = generator.random((20, 30, 3)), generator.random((20, 30))
    np.testing.assert_array_equal(decision_picture(image, values, vmax=2.0), overlay(image, values, vmax=2.0))


def test_boxes_are_in_pixels_of_the_original() -> None:
    picture = decision_picture(np.zeros((16, 16, 1)), np.zeros((16, 16)), [(10, 20, 40, 50)], size=(100, 60))
    assert picture.shape == (60, 100, 3)
    rows, columns = np.nonzero((picture == BOX).all(2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 20, 40, 50)
    assert not (picture[22:48, 12:38] == BOX).all(2).any()  # only its outline


def test_large_images_are_made_smaller_and_keep_their_peaks() -> None:
    image, values = np.zeros((12, 3 * LONGEST, 1)), np.zeros((12, 3 * LONGEST))
    values[4, 1000] = 1.0
    picture = decision_picture(image, values, vmax=1.0)
    assert picture.shape == (4, LONGEST, 3)
    strongest = overlay(np.zeros((1, 1, 1)), np.ones((1, 1)), vmax=1.0)[0, 0].astype(int)
    assert np.abs(picture[:, 1000 // 3].astype(int) - strongest).sum(1).min() == 0


def test_no_number_and_nothing_above_0_are_drawn_as_nothing() -> None:
    image, values = np.full((4, 4, 1), 0.5), np.full((4, 4), -1.0)
    values[0, 0] = np.nan
    np.testing.assert_array_equal(decision_picture(image, values), overlay(image, np.zeros((4, 4))))
