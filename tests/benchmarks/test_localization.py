"""The peers of `vaex bench what=metrics` are right, and its table says what was measured."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from vaex.benchmarks import localization
from vaex.benchmarks.localization import (
    SKLEARN,
    SORTING,
    TOGETHER,
    VAEX,
    Maps,
    Result,
    all_measures,
    drawn_maps,
    metrics_content,
    metrics_table,
    run_metrics,
    sorting_aupro,
)
from vaex.benchmarks.timing import Timing
from vaex.errors import VaexError


def test_aupro_by_sorting_is_the_mean_over_regions_of_a_partial_area() -> None:
    case = drawn_maps(5, 20)
    rounded = Maps((case.maps * 4).round(), case.masks, case.groups)
    for maps, masks, _ in (case, rounded):
        scores, truth = maps[:, 0].numpy(), masks[:, 0].numpy() > 0
        areas = []
        for b, mask in enumerate(truth):
            labels, count = ndimage.label(mask, np.ones((3, 3)))
            for region in range(1, count + 1):
                own = np.concatenate([scores[b][labels == region], scores[~truth]])
                label = np.arange(len(own)) < (labels == region).sum()
                scaled = roc_auc_score(label, own, max_fpr=0.3)  # McClish: 0.5 is chance
                areas.append(((2 * scaled - 1) * (0.3 - 0.3**2 / 2) + 0.3**2 / 2) / 0.3)
        assert sorting_aupro(Maps(maps, masks, [])) == pytest.approx(np.mean(areas), abs=1e-9)


def test_drawn_maps_are_like_a_test_set() -> None:
    maps, masks, groups = drawn_maps(83, 64)
    assert maps.shape == masks.shape == (83, 1, 64, 64)
    assert 0.03 < masks.mean().item() < 0.08
    assert [name == "good" for name in groups] == (masks.flatten(1).sum(1) == 0).tolist()
    assert set(groups) == {"good", "one", "two", "many"}
    assert torch.equal(maps, drawn_maps(83, 64).maps)


def test_all_are_measured_and_agree() -> None:
    result = run_metrics(8, 24, rounds=1)
    assert list(result.timings) == [TOGETHER, SKLEARN, SORTING, VAEX]
    assert result.error <= 1e-6
    assert {"aupimo", "best_iou/many", "image_ap/one"} <= set(all_measures(drawn_maps(8, 24)))


def test_the_error_is_that_of_the_worse_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localization, "sorting_aupro", lambda case: sorting_aupro(case) + 0.25)
    assert run_metrics(8, 24, rounds=1).error == pytest.approx(0.25, abs=1e-6)
    monkeypatch.setattr(localization, "sklearn_auroc", lambda case: 2.0)
    assert run_metrics(8, 24, rounds=1).error > 1


@pytest.mark.parametrize(("ratio", "word"), [(1 / 8, "met"), (1 / 7.9, "MISSED")])
def test_table(ratio: float, word: str) -> None:
    timings = {TOGETHER: Timing((2.0, 2.0), (1.0, 1.0)), VAEX: Timing((0.25, 0.25), (ratio, ratio))}
    result = Result(timings, 1.2e-8, "A case.")
    table = metrics_table(result)
    assert table.rows[1] == (VAEX, "250.0", f"{1 / ratio:.2f}", f"{1 / ratio:.2f}-{1 / ratio:.2f}", f">= 8 {word}")
    assert "1e-08" in table.notes[1]
    assert metrics_content(result)["contestants"][VAEX]["ratio"]["median"] == ratio


def test_without_scikit_learn_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(VaexError, match="pip install scikit-learn"):
        run_metrics(8, 24, rounds=1)
