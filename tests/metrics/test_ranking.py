"""auroc and average_precision against scikit-learn, counting of pairs, and cases that break binned measures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.ranking import auroc, average_precision


def _random_cases() -> list[tuple[str, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def labels(count: int) -> Tensor:
        drawn = torch.randint(0, 2, (count,), generator=generator)
        drawn[0], drawn[1] = 0, 1
        return drawn

    outlier = torch.randn(300, generator=generator, dtype=torch.float64)
    outlier[17] = 1e30
    close = 10 + 1e-12 * torch.randint(0, 50, (400,), generator=generator).double()
    return [
        ("normal", torch.randn(1000, generator=generator), labels(1000)),
        ("ties", torch.randint(0, 4, (501,), generator=generator).float(), labels(501)),
        ("outlier", outlier, labels(300)),
        ("close", close, labels(400)),
        ("equal", torch.full((50,), 3.0), labels(50)),
        ("negative", -torch.rand(64, generator=generator) * 1e-20, labels(64)),
        ("integers", torch.randint(-5, 5, (99,), generator=generator), labels(99)),
        ("two", torch.tensor([0.0, 1.0]), torch.tensor([0, 1])),
        ("signed zero", torch.tensor([0.0, -0.0, 0.0, -0.0]), torch.tensor([0, 1, 1, 0])),
        ("half", torch.randn(200, generator=generator).half(), labels(200).bool()),
    ]


@pytest.mark.parametrize(("scores", "labels"), [c[1:] for c in _random_cases()], ids=[c[0] for c in _random_cases()])
def test_equals_scikit_learn(scores: Tensor, labels: Tensor) -> None:
    truth, given = labels.long().numpy(), scores.double().numpy()
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(truth, given), abs=1e-14)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(truth, given), abs=1e-14)


@pytest.mark.parametrize(("scores", "labels"), [c[1:] for c in _random_cases()], ids=[c[0] for c in _random_cases()])
def test_auroc_is_the_share_of_ordered_pairs(scores: Tensor, labels: Tensor) -> None:
    values, truth = scores.double().tolist(), labels.tolist()
    won = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, lp in zip(values, truth, strict=True)
        if lp
        for n, ln in zip(values, truth, strict=True)
        if not ln
    ]
    assert auroc(scores, labels) == pytest.approx(sum(won) / len(won), abs=1e-12)


def test_close_values_are_told_apart() -> None:
    scores = torch.tensor([10, 10 + 1e-12, 10 + 2e-12, 10 + 3e-12], dtype=torch.float64)
    assert auroc(scores, torch.tensor([0, 1, 0, 1])) == 0.75
    assert auroc(scores, torch.tensor([0, 0, 1, 1])) == 1.0


def test_infinities_are_ranked() -> None:
    scores = torch.tensor([-torch.inf, 0.0, torch.inf, torch.inf])
    assert auroc(scores, torch.tensor([0, 0, 1, 1])) == 1.0
    assert auroc(scores, torch.tensor([1, 0, 0, 1])) == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert average_precision(scores, torch.tensor([0, 0, 1, 1])) == 1.0


def test_scale_does_not_matter() -> None:
    scores, labels = torch.randn(100, generator=torch.Generator().manual_seed(1)), torch.arange(100) % 3 == 0
    for measure in (auroc, average_precision):
        assert measure(scores, labels) == measure(scores.double() * 1e6 + 1e3, labels)


@pytest.mark.parametrize("measure", [auroc, average_precision])
@pytest.mark.parametrize("labels", [torch.zeros(4), torch.ones(4), torch.zeros(0)], ids=["normal", "anomalous", "none"])
def test_one_class_is_nan(measure: Callable[[Tensor, Tensor], float], labels: Tensor) -> None:
    assert math.isnan(measure(torch.rand(len(labels)), labels))


@pytest.mark.parametrize("measure", [auroc, average_precision])
def test_bad_input(measure: Callable[[Tensor, Tensor], float]) -> None:
    with pytest.raises(VaexError, match="2 of 3 values of scores are NaN"):
        measure(torch.tensor([torch.nan, 1.0, torch.nan]), torch.tensor([0, 1, 1]))
    with pytest.raises(VaexError, match=r"\(3,\).*\(2,\)"):
        measure(torch.rand(3), torch.tensor([0, 1]))
    with pytest.raises(VaexError, match=r"\(2, 1\)"):
        measure(torch.rand(2, 1), torch.zeros(2, 1))
    with pytest.raises(VaexError, match=r"0 .normal. or 1"):
        measure(torch.rand(3), torch.tensor([0, 1, 255]))
